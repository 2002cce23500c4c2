"""The gin files that no engine owns: initializers of prompts, and the sizes of T5 1.1."""
