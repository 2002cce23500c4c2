"""The gin files that travel with the core, in the layout of T5X."""
