"""Training, evaluation and inference: the work of the commands."""
