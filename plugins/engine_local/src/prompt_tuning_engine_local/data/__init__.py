"""Tasks as the engine reads them, and batches of their examples."""
