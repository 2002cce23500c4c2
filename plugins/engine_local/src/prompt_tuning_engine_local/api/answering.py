"""A frozen model in Python, which answers and scores texts with any prompt."""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_engine_local.model import model_files, sizes
from prompt_tuning_engine_local.model.model_files import FrozenModel
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompt_of_each import PromptChoice, PromptOfEach, PromptTable
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import AnyPrompt, Predictor
from prompt_tuning_engine_local.runs.prompt_values import Prompt, plain_matrices
from prompt_tuning_files import embeddings, module_files, vocabularies
from prompt_tuning_files.vocabularies import EXTRA_IDS, SentencePieceVocabulary
from prompt_tuning_tasks.feature_lengths import FeatureLengths

__all__ = ["Model", "load_model"]

LENGTHS = {"inputs": 512, "targets": 64}
"""The most ids of inputs and targets, where neither the caller nor a prompt says."""


def load_model(
    path: str | os.PathLike[str],
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    extra_ids: int = EXTRA_IDS,
    dtype: str = "float32",
    lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    num_devices: int | None = None,
) -> Model:
    """Reads a frozen T5.

    Args:
      path: A model of any installed form, or a name that a catalog has (CHECKPOINT_PATH).
      vocabulary: Its vocabulary; None for the one in its own folder (VOCABULARY_FILE).
      extra_ids: The number of extra ids (VOCABULARY_EXTRA_IDS).
      dtype: Of the activations, "float32" or "bfloat16" (ACTIVATION_DTYPE).
      lengths: The most ids of "inputs" and "targets" (TASK_FEATURE_LENGTHS); None for those that a
        prompt was trained with, or 512 and 64.
      batch_size: Texts that are answered at once (BATCH_SIZE).
      num_devices: Devices that share a batch; None for all (NUM_DEVICES).

    Raises:
      InputError: If it cannot be used.
    """
    config = sizes.config_of_checkpoint(path, dtype=dtype)
    pieces = SentencePieceVocabulary(vocabulary, extra_ids, path)
    placement = Placement(num_devices)
    placement.check_batch_size(batch_size)
    bare = EncoderDecoderModel(config, pieces, PromptModule)
    frozen = model_files.load(path, bare.frozen_parameters, placement.everywhere)
    return Model(config, pieces, frozen, placement, lengths=lengths, batch_size=batch_size)


class Model:
    """A frozen T5 with its vocabulary; one for all prompts, threads and lengths of prompts.

    Its memory is free when nothing refers to it.

    Args:
      config: Sizes and numerics.
      vocabulary: The vocabulary.
      frozen: The parameters.
      placement: The devices.
      lengths: See `load_model`.
      batch_size: See `load_model`.

    Attributes:
      config: Sizes and numerics.
      vocabulary: The vocabulary.
      frozen: The parameters.
      placement: The devices.
      lengths: See `load_model`.
    """

    def __init__(
        self,
        config: T5Config,
        vocabulary: SentencePieceVocabulary,
        frozen: FrozenModel,
        placement: Placement,
        *,
        lengths: Mapping[str, int] | None = None,
        batch_size: int = 32,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.frozen = frozen
        self.placement = placement
        self.lengths = lengths
        self._batch_size = batch_size
        self._lock = threading.RLock()
        self._models: dict[tuple[Any, ...], EncoderDecoderModel] = {}
        self._parameters: weakref.WeakKeyDictionary[Prompt, tuple[EncoderDecoderModel, Params]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def path(self) -> str:
        """Where the model was read from."""
        return self.frozen.path

    @property
    def embeddings(self) -> embeddings.EmbeddingTable:
        """The table `[V, H]` of the model's file, for initializers; rows are read when used."""
        return embeddings.checkpoint_load(self.path)

    def generate(
        self, texts: Sequence[str], prompt: Prompt | Sequence[Prompt] | None = None
    ) -> list[str]:
        """Answers texts.

        Args:
          texts: The inputs.
          prompt: A prompt; a list of plain prompts, one for each text; or None for the bare model.

        Raises:
          InputError: If the prompt does not fit the model or the texts.
        """
        predictor, chosen = self._predictor(prompt, len(texts))
        return predictor.predict(texts, chosen)

    def score(
        self,
        texts: Sequence[str],
        targets: Sequence[str],
        prompt: Prompt | Sequence[Prompt] | None = None,
    ) -> np.ndarray:
        """Returns the log-likelihood of a target for each text, its EOS included.

        Args:
          texts: The inputs.
          targets: As many targets.
          prompt: As in `generate`.

        Returns:
          float32 `[N]`, in nats.

        Raises:
          InputError: As `generate`, and if there are more texts than targets, or fewer.
        """
        if len(texts) != len(targets):
            raise InputError(
                f"there are {len(texts)} texts and {len(targets)} targets; give one for each"
            )
        predictor, chosen = self._predictor(prompt, len(texts))
        return predictor.score(texts, targets, chosen)

    def _predictor(
        self, prompt: Prompt | Sequence[Prompt] | None, texts: int
    ) -> tuple[Predictor, AnyPrompt]:
        """Returns what answers texts, and the prompt as it takes it."""
        if isinstance(prompt, Sequence):
            if len(prompt) != texts:
                raise InputError(
                    f"there are {texts} texts and {len(prompt)} prompts; give a prompt for each "
                    "text, or one prompt for all"
                )
            distinct = list(dict.fromkeys(prompt))
            table = PromptTable.of(plain_matrices(distinct, self.config.emb_dim))
            numbers = np.array([distinct.index(one) for one in prompt], np.int32)
            choice = PromptChoice(table, numbers)
            return self._predicting(self._model_of(PromptOfEach()), distinct), choice
        if prompt is None:
            return self._predicting(self._model_of(PromptModule()), ()), None
        model, parameters = self._fitted(prompt)
        return self._predicting(model, [prompt]), parameters

    def _fitted(self, prompt: Prompt) -> tuple[EncoderDecoderModel, Params]:
        """Returns the model with a prompt's module, and its parameters on the devices."""
        with self._lock:
            if prompt not in self._parameters:
                known = prompt.provenance.get("vocabulary")
                vocabularies.check_same(prompt.name, known, self.vocabulary)
                values = EncoderDecoderModel(self.config, self.vocabulary, prompt.factory())
                parameters = values.init_prompt(jax.random.key(0))
                model = self._model_of(prompt.module)
                self._parameters[prompt] = model, self.placement.everywhere(parameters)
            return self._parameters[prompt]

    def _model_of(self, module: PromptModule) -> EncoderDecoderModel:
        """Returns the model with a prompt module, the same for all prompts of equal fields."""
        fields = module_files.describe(module)["fields"]
        key = (type(module), json.dumps(fields, sort_keys=True))
        with self._lock:
            if key not in self._models:
                self._models[key] = EncoderDecoderModel(self.config, self.vocabulary, module.clone)
            return self._models[key]

    def _predicting(self, model: EncoderDecoderModel, prompts: Sequence[Prompt]) -> Predictor:
        return Predictor(
            model,
            self.frozen.params,
            self._lengths_for(prompts),
            self._batch_size,
            self.placement,
        )

    def _lengths_for(self, prompts: Sequence[Prompt]) -> FeatureLengths:
        """Returns the model's lengths, or else the longest that the prompts were trained with."""
        if self.lengths is not None:
            return FeatureLengths.of(self.lengths)
        trained = [
            lengths
            for prompt in prompts
            if (lengths := prompt.provenance.get("task", {}).get("feature_lengths"))
        ]
        longest = {
            name: max((one[name] for one in trained), default=n) for name, n in LENGTHS.items()
        }
        return FeatureLengths.of(longest)
