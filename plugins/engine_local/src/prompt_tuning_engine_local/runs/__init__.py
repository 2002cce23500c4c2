"""Training, evaluation and inference: what the commands do."""
