"""The demo's gin files, for the engine `local`."""
