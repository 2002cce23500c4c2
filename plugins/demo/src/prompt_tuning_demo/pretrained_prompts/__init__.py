"""Prompts that were trained for the demo's model, as `MODEL/TASK.npy`; read by their names."""
