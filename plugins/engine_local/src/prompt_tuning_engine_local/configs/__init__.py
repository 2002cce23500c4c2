"""The gin files of the engine `local`."""
