"""The gin files of the engine `t5x`."""
