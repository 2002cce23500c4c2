"""The Python API of the engine; `prompt_tuning_engine_local` gives its names."""
