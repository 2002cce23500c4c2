"""Commands that show models and prompts, and convert prompts."""
