"""Prompt tuning of frozen T5 models, with everything that varies in plugins.

This module imports nothing. So `prompt-tuning list-plugins`, and a plugin that needs only one
protocol, start quickly. Import the parts by name, such as `prompt_tuning_core.prompts`.
"""

from __future__ import annotations

__version__ = "1.0.0"
