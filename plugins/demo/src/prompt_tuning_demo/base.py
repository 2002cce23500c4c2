"""Makes the demo's base model in Python, for the scripts of this package."""

from __future__ import annotations

import functools

from prompt_tuning_core.protocols import Initializer
from prompt_tuning_demo import model, pretrain
from prompt_tuning_demo.recipe import Recipe
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_prompt_basic import PromptBasic
from prompt_tuning_tasks.feature_lengths import FeatureLengths

# As in `models/demo_prompt.gin`.
LENGTHS = FeatureLengths(inputs=112, targets=4)
PROMPT_LENGTH = 20
Z_LOSS = 1e-4


def make_model(prompt_init: Initializer, dropout_rate: float = 0.0) -> EncoderDecoderModel:
    """Returns the model of `models/demo_prompt.gin`; its weights are at `model.checkpoint_path`.

    Args:
      prompt_init: Makes the prompt's first value.
      dropout_rate: Dropout while training.
    """
    return EncoderDecoderModel(
        pretrain.network_config(Recipe(), dropout_rate),
        SentencePieceVocabulary(model.vocabulary_path()),
        functools.partial(PromptBasic, length=PROMPT_LENGTH, prompt_init=prompt_init),
        z_loss=Z_LOSS,
    )
