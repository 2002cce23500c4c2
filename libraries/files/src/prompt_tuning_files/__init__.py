"""Prompts, models and embedding tables in files, opened by their content."""
