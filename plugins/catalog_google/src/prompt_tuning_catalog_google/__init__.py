"""A catalog of the models and prompts that Google released: their names and places.

`released.json` lists them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import git_lfs
from prompt_tuning_files.names import Known

PROMPTS_VARIABLE = "PROMPT_TUNING_PROMPTS"


@dataclasses.dataclass(frozen=True)
class ReleasedModel:
    """A T5 model that Google released.

    Attributes:
      name: Its name at T5X, whose docs/models.md lists it
        (https://github.com/google-research/t5x).
      path: The T5X checkpoint.
      step: The step of the checkpoint.
      hugging_face: The name of the same model at Hugging Face.
      vocabulary: The SentencePiece model, with 100 extra ids among its pieces.
      gin_file: The packaged gin file that describes the model.
      parameters: Number of parameters.
      width: Width of the embeddings and between the layers.
      layers: Number of layers of the encoder; the decoder has the same number.
      heads: Number of heads of each attention.
      head_width: Width of each attention head.
      mlp_width: Width of the two gated projections.
      vocabulary_rows: Rows of the embedding table; rows after the vocabulary's ids are padding.
    """

    name: str
    path: str
    step: int
    hugging_face: str
    vocabulary: str
    gin_file: str
    parameters: int
    width: int
    layers: int
    heads: int
    head_width: int
    mlp_width: int
    vocabulary_rows: int


@dataclasses.dataclass(frozen=True)
class ReleasedPrompt:
    """A prompt that was published as a file.

    Attributes:
      name: `MODEL/TASK`; the model is a released one.
      repository: The repository that has it.
      commit: The repository's commit.
      file: The path in the repository.
      shape: `(P, H)`.
      sha256: Checksum of the file.
      published_score: The split and the metrics that its authors report.
    """

    name: str
    repository: str
    commit: str
    file: str
    shape: tuple[int, int]
    sha256: str
    published_score: dict[str, Any]

    @property
    def path(self) -> Path:
        """The path on this machine at which `prompts` looks for the file."""
        return prompts_folder() / f"{self.name}.npy"


def models() -> list[Known]:
    """Lists the models, each from T5X and from Hugging Face."""
    listed = []
    for model in released_models():
        facts = {
            "PARAMETERS": f"{model.parameters:,}",
            "LAYERS": f"{model.layers} + {model.layers}",
            "WIDTH": f"{model.width}",
            "HUGGING FACE": model.hugging_face,
            "GIN FILE": model.gin_file,
            "PATH": model.path,
        }
        notes = (f"vocabulary: {model.vocabulary}, 100 extra ids included",)
        listed += [
            Known(
                model.name,
                functools.partial(str, model.path),
                hugging_face=model.hugging_face,
                address=model.path,
                facts=facts,
                notes=notes,
            ),
            Known(
                model.hugging_face,
                functools.partial(_downloaded, model),
                hugging_face=model.hugging_face,
            ),
        ]
    return listed


def prompts() -> list[Known]:
    """Lists the prompts."""
    listed = []
    for prompt in released_prompts():
        state = "" if prompt.path.is_file() else " (not on this machine)"
        facts = {"FILE": f"{prompt.path}{state}"}
        listed.append(Known(prompt.name, functools.partial(_fetched, prompt), facts=facts))
    return listed


@functools.cache
def released_models() -> tuple[ReleasedModel, ...]:
    """Returns the facts of the released models."""
    return tuple(ReleasedModel(**facts) for facts in _listed()["models"])


@functools.cache
def released_prompts() -> tuple[ReleasedPrompt, ...]:
    """Returns the facts of the released prompts."""
    return tuple(
        ReleasedPrompt(**{**facts, "shape": tuple(facts["shape"])})
        for facts in _listed()["prompts"]
    )


def prompts_folder() -> Path:
    """Returns the folder that holds released prompts, as `MODEL/TASK.npy`."""
    default = "~/.cache/prompt-tuning/prompts"
    return Path(os.environ.get(PROMPTS_VARIABLE) or default).expanduser()


def _listed() -> dict[str, list[dict[str, Any]]]:
    listed: dict[str, list[dict[str, Any]]] = json.loads(
        Path(__file__).with_name("released.json").read_bytes()
    )
    return listed


def _downloaded(model: ReleasedModel) -> str:
    """Returns the snapshot of a model in the cache of Hugging Face's tools.

    https://huggingface.co/docs/hub/local-cache describes the cache.
    """
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    folder = cache / f"models--{model.hugging_face.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        raise InputError(
            f"model {model.hugging_face}: not downloaded to {cache}; run: hf download "
            f"{model.hugging_face}, or read the T5X checkpoint by the name {model.name}"
        ) from None
    snapshot = folder / "snapshots" / revision
    if not revision or not snapshot.is_dir():
        raise InputError(
            f"model {model.hugging_face}: its download is incomplete, there is no {snapshot}; run "
            f"again: hf download {model.hugging_face}"
        )
    return str(snapshot)


def _fetched(prompt: ReleasedPrompt) -> str:
    source = f"{prompt.file} of {prompt.repository} (at {prompt.commit[:7]})"
    try:
        content = prompt.path.read_bytes()
    except OSError as error:
        raise InputError(
            f"prompt {prompt.name}: {prompt.path} cannot be read: {error.strerror}; fetch {source} "
            f"to there, or set {PROMPTS_VARIABLE} to the folder that holds {prompt.name}.npy"
        ) from None
    git_lfs.refuse(content, f"prompt {prompt.path}")
    found = hashlib.sha256(content).hexdigest()
    if found != prompt.sha256:
        raise InputError(
            f"prompt {prompt.name}: {prompt.path} is not the released file: its sha256 is {found}, "
            f"expected {prompt.sha256}; fetch {source} again"
        )
    return str(prompt.path)
