"""Flaxformer's T5 with the points of prompt modules.

Each class replaces the class of `flaxformer.architectures.t5.t5_architecture` that it extends:

- `PromptEncoderDecoder`, with `PromptEncoder` as its encoder and `PromptDecoder` as its decoder;
- `PromptDecoderOnly`, with `PromptDecoder` as its decoder.
"""

from prompt_tuning_core.integrations.flaxformer.models import (
    PromptDecoderOnly,
    PromptEncoderDecoder,
    prompts_of,
)
from prompt_tuning_core.integrations.flaxformer.stacks import (
    PromptDecoder,
    PromptEncoder,
    source_tokens,
)

__all__ = [
    "PromptDecoder",
    "PromptDecoderOnly",
    "PromptEncoder",
    "PromptEncoderDecoder",
    "prompts_of",
    "source_tokens",
]
