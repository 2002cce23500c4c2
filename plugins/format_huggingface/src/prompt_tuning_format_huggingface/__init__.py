"""T5 models as Hugging Face Transformers saves them, and prompts as PEFT saves them."""

from __future__ import annotations

from prompt_tuning_format_huggingface.peft_adapters import PeftFormat
from prompt_tuning_format_huggingface.t5_models import HuggingFaceT5, HuggingFaceT5Format

__all__ = ["HuggingFaceT5", "HuggingFaceT5Format", "PeftFormat"]
