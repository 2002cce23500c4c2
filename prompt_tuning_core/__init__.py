"""Prompt tuning of frozen T5 models, with everything that varies in plugins.

This module imports nothing, so that `prompt-tuning list-plugins` and a plugin that needs one
protocol stay cheap. The parts are imported by name: `prompt_tuning_core.registry`, `.plugins`,
`.prompts`, `.embeddings`, and so on.
"""

from __future__ import annotations

__version__ = "1.0.0"
