"""Flaxformer's T5 with the intervention points of prompt modules."""

from prompt_tuning_core.integrations.flaxformer.layers import (
    PromptDecoder,
    PromptDecoderOnly,
    PromptEncoder,
    PromptEncoderDecoder,
)

__all__ = ["PromptDecoder", "PromptDecoderOnly", "PromptEncoder", "PromptEncoderDecoder"]
