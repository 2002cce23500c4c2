"""The command `prompt-tuning`, and the commands that the core itself brings."""
