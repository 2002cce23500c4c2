"""A frozen model in Python, which answers and scores texts with any prompt."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Unpack

import jax
import numpy as np

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import PromptModule
from prompt_tuning_engine_local.api.decoding_settings import (
    SAMPLING,
    Decoding,
    decode_fn,
    ranking,
)
from prompt_tuning_engine_local.api.given_tasks import engine_task, is_rows
from prompt_tuning_engine_local.model import model_files, sizes
from prompt_tuning_engine_local.model.decoding import DecodeFn
from prompt_tuning_engine_local.model.model_files import FrozenModel
from prompt_tuning_engine_local.model.network import T5Config
from prompt_tuning_engine_local.model.prompt_of_each import (
    JointPrompts,
    PromptChoice,
    PromptOfEach,
    PromptTable,
    VotingPrompts,
)
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel, Params
from prompt_tuning_engine_local.runs import options
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Answer, AnyPrompt, Evaluation, Predictor
from prompt_tuning_files import embeddings, module_files, trained_prompts
from prompt_tuning_files.loaded_prompts import Prompt, plain_matrices
from prompt_tuning_files.vocabularies import EXTRA_IDS, SentencePieceVocabulary
from prompt_tuning_tasks import Row, Task
from prompt_tuning_tasks.feature_lengths import FeatureLengths

__all__ = ["Answer", "Decoding", "Ensemble", "Evaluation", "Model", "load_model"]

LENGTHS = {"inputs": 512, "targets": 64}
"""The largest numbers of ids in inputs and targets, if no caller and no prompt sets them."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Plain prompts of one task that answer together (Lester et al. 2021, section 6).

    Attributes:
      prompts: The prompts.
      by: "vote" for the most frequent answer, or "mean_logit" for the answer of the mean of their
        logits.

    Raises:
      InputError: If `by` is neither, or there are no prompts.
    """

    prompts: Sequence[Prompt]
    by: str = "vote"

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.by not in ("vote", "mean_logit") or not self.prompts:
            raise InputError(
                f"the ensemble has {len(self.prompts)} prompts, by {self.by!r}; expected at least "
                "one, by 'vote' or 'mean_logit'"
            )


AnyPrompts = Prompt | Sequence[Prompt] | Ensemble | None


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
      dtype: Dtype of the activations, "float32" or "bfloat16" (ACTIVATION_DTYPE).
      lengths: The largest numbers of ids in "inputs" and "targets" (TASK_FEATURE_LENGTHS). None for
        the lengths of the prompt's training, or else 512 and 64.
      batch_size: Number of texts that are answered at once (BATCH_SIZE).
      num_devices: Number of devices that share a batch; None for all (NUM_DEVICES).

    Raises:
      InputError: If the model or an argument cannot be used.
    """
    options.check("ACTIVATION_DTYPE", dtype)
    options.check("BATCH_SIZE", batch_size)
    config = sizes.config_of_checkpoint(path, dtype=dtype)
    pieces = SentencePieceVocabulary(vocabulary, extra_ids, path)
    placement = Placement(num_devices)
    placement.check_batch_size(batch_size)
    bare = EncoderDecoderModel(config, pieces, lambda: PromptModule())
    frozen = model_files.load(path, bare.frozen_parameters, placement.everywhere)
    return Model(config, pieces, frozen, placement, lengths=lengths, batch_size=batch_size)


class Model:
    """A frozen T5 with its vocabulary; all prompts, of any length, and all threads can share it.

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
        self._models: dict[str, EncoderDecoderModel] = {}
        self._parameters: weakref.WeakKeyDictionary[Prompt, tuple[EncoderDecoderModel, Params]] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def path(self) -> str:
        """The path that the model was read from."""
        return self.frozen.path

    @property
    def embeddings(self) -> embeddings.EmbeddingTable:
        """The table `[V, H]` of the model's file, for initializers; rows are read when used."""
        return embeddings.checkpoint_load(self.path)

    def generate(
        self, texts: Sequence[str], prompt: AnyPrompts = None, **decoding: Unpack[Decoding]
    ) -> list[str]:
        """Answers texts.

        Args:
          texts: The inputs.
          prompt: A prompt; a list of plain prompts, one for each text; an ensemble; or None for the
            bare model.
          **decoding: See `Decoding`; without any, decoding is greedy.

        Raises:
          InputError: If the prompt does not fit the model or the texts, or a setting is bad.
        """
        decode = decode_fn(1, **decoding)
        predictor, chosen = self._predictor(prompt, _count(texts=texts), decode)
        return predictor.predict(texts, chosen)

    def n_best(
        self, texts: Sequence[str], n: int, prompt: AnyPrompts = None, **decoding: Unpack[Decoding]
    ) -> list[list[Answer]]:
        """Returns several answers to each text, the best first, with their scores.

        Args:
          texts: The inputs.
          n: Number of answers: the best of a beam search with at least `n` beams, or, with
            `temperature`, `n` samples.
          prompt: As in `generate`, but no vote.
          **decoding: See `Decoding`.

        Raises:
          InputError: In the cases of `generate`.
        """
        decoding.setdefault("num_beams", 1 if SAMPLING & set(decoding) else n)
        return self._ranked(texts, prompt, n, decode_fn(n, **decoding))

    def rank(
        self, texts: Sequence[str], labels: Sequence[str], prompt: AnyPrompts = None
    ) -> list[list[Answer]]:
        """Returns the labels for each text, the most probable first, with their log-likelihoods.

        Args:
          texts: The inputs.
          labels: Different texts.
          prompt: As in `generate`, but no vote.

        Raises:
          InputError: In the cases of `generate`, and if the vocabulary cannot write a label.
        """
        return self._ranked(texts, prompt, len(labels), ranking(labels))

    def _ranked(
        self, texts: Sequence[str], prompt: AnyPrompts, n: int, decode: DecodeFn
    ) -> list[list[Answer]]:
        predictor, chosen = self._predictor(prompt, _count(texts=texts), decode)
        if isinstance(chosen, VotingPrompts):
            raise InputError("a vote has one answer; ask for several with by='mean_logit'")
        return [one for part in predictor.ranked_in_parts(texts, chosen, n) for one in part]

    def score(
        self, texts: Sequence[str], targets: Sequence[str], prompt: AnyPrompts = None
    ) -> np.ndarray:
        """Returns the log-likelihood of a target for each text, including its EOS.

        Args:
          texts: The inputs.
          targets: The targets, one for each text.
          prompt: As in `generate`, but no ensemble.

        Returns:
          float32 `[N]`, in nats.

        Raises:
          InputError: In the cases of `generate`, and if there are more texts than targets, or
            fewer.
        """
        if _count(texts=texts) != _count(targets=targets):
            raise InputError(
                f"there are {len(texts)} texts and {len(targets)} targets; give one for each"
            )
        predictor, chosen = self._predictor(prompt, len(texts))
        return predictor.score(texts, targets, chosen)

    def evaluate(
        self,
        task: Task | str | Sequence[Row],
        prompt: AnyPrompts = None,
        *,
        split: str = "validation",
        **decoding: Unpack[Decoding],
    ) -> Evaluation:
        """Scores the answers to a split of a task with the task's metrics.

        Args:
          task: As in `train`. If it is rows, they are the split.
          prompt: As in `generate`, but no list.
          split: The split of a task.
          **decoding: See `Decoding`.

        Returns:
          The metrics, the examples and the predictions.

        Raises:
          InputError: In the cases of `generate`, and if the split cannot be read.
        """
        if isinstance(prompt, Sequence):
            raise InputError("an evaluation takes one prompt, or an ensemble")
        predictor, chosen = self._predictor(prompt, 0, decode_fn(1, **decoding))
        found = engine_task(task, {split: task} if is_rows(task) else {})
        (component,) = found.components(split)
        return predictor.evaluate_prepared(predictor.prepare(component, split), chosen)

    def _predictor(
        self, prompt: AnyPrompts, texts: int, decode: DecodeFn | None = None
    ) -> tuple[Predictor, AnyPrompt]:
        """Returns the object that answers texts, and the prompt in the form that it takes.

        Args:
          prompt: See `generate`.
          texts: The number of texts.
          decode: Makes the answers; None if none are made.
        """
        if isinstance(prompt, Ensemble):
            table = PromptTable.of(self._matrices(prompt.prompts))
            kind = VotingPrompts if prompt.by == "vote" else JointPrompts
            model = self._model_of(PromptOfEach())
            return self._predicting(model, prompt.prompts, decode), kind(table)
        if isinstance(prompt, Sequence):
            if len(prompt) != texts:
                raise InputError(
                    f"there are {texts} texts and {len(prompt)} prompts; give a prompt for each "
                    "text, or one prompt for all"
                )
            distinct = list(dict.fromkeys(prompt))
            table = PromptTable.of(self._matrices(distinct))
            numbers = np.array([distinct.index(one) for one in prompt], np.int32)
            choice = PromptChoice(table, numbers)
            return self._predicting(self._model_of(PromptOfEach()), distinct, decode), choice
        if prompt is None:
            return self._predicting(self._model_of(PromptModule()), (), decode), None
        model, parameters = self._fitted(prompt)
        return self._predicting(model, [prompt], decode), parameters

    def _matrices(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        return plain_matrices(prompts, self.config.emb_dim, self.vocabulary)

    def _fitted(self, prompt: Prompt) -> tuple[EncoderDecoderModel, Params]:
        """Returns the model with a prompt's module, and its parameters on the devices."""
        with self._lock:
            if prompt not in self._parameters:
                prompt.check_vocabulary(self.vocabulary)
                values = EncoderDecoderModel(self.config, self.vocabulary, prompt.factory())
                parameters = values.init_prompt(jax.random.key(0))
                model = self._model_of(prompt.module)
                self._parameters[prompt] = model, self.placement.everywhere(parameters)
            return self._parameters[prompt]

    def _model_of(self, module: PromptModule) -> EncoderDecoderModel:
        """Returns the model with a prompt module; the same object for modules with equal fields."""
        key = json.dumps(module_files.describe(module), sort_keys=True)
        with self._lock:
            if key not in self._models:
                self._models[key] = EncoderDecoderModel(self.config, self.vocabulary, module.clone)
            return self._models[key]

    def _predicting(
        self, model: EncoderDecoderModel, prompts: Sequence[Prompt], decode: DecodeFn | None
    ) -> Predictor:
        return Predictor(
            model,
            self.frozen.params,
            self._lengths_for(prompts),
            self._batch_size,
            self.placement,
            decode_fn=decode,
        )

    def _lengths_for(self, prompts: Sequence[Prompt]) -> FeatureLengths:
        """Returns the model's lengths, or else the longest lengths in the prompts' training."""
        if self.lengths is not None:
            return FeatureLengths.of(self.lengths)
        recorded = [trained_prompts.mapping(prompt.provenance.get("task")) for prompt in prompts]
        trained = [
            FeatureLengths.of(task["feature_lengths"])
            for task in recorded
            if task.get("feature_lengths")
        ] or [FeatureLengths.of(LENGTHS)]
        return FeatureLengths(
            max(one.inputs for one in trained), max(one.targets for one in trained)
        )


def _count(**texts: Sequence[str]) -> int:
    """Returns the number of texts, given by name; refuses one text instead of a list."""
    ((name, found),) = texts.items()
    if isinstance(found, str) or not all(isinstance(text, str) for text in found):
        raise InputError(f"{name} is {found!r}, expected a list of texts such as ['a text']")
    return len(found)
