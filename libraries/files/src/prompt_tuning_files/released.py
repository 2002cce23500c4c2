"""Models and prompts that are known by name, and where they are.

`released.json` lists the released models and prompts. Their names, and those of the prompts that
installed packages carry, stand wherever a path may; a file of that name comes first.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_tuning_core import git_lfs
from prompt_tuning_core.errors import InputError, close
from prompt_tuning_files import bundled_prompts

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
      vocabulary: The SentencePiece model, 100 extra ids among its pieces.
      gin_file: The packaged gin file that describes the model.
      parameters: How many there are.
      width: Of the embeddings and between the layers.
      layers: Of the encoder, and as many of the decoder.
      heads: Of each attention.
      head_width: Of each head.
      mlp_width: Of the two gated projections.
      vocabulary_rows: Rows of the embedding table; those above the vocabulary's ids are padding.
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
      repository: Where it was published, `commit`, in which version, and `file`, under which path.
      commit: See `repository`.
      file: See `repository`.
      shape: `(P, H)`.
      sha256: Checksum of the file.
      published_score: What its authors report: the split, and the metrics on it.
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
        """Where the file is looked for on this machine."""
        return prompts_folder() / f"{self.name}.npy"


@functools.cache
def models() -> tuple[ReleasedModel, ...]:
    """Lists the released models."""
    return tuple(ReleasedModel(**facts) for facts in _listed()["models"])


@functools.cache
def prompts() -> tuple[ReleasedPrompt, ...]:
    """Lists the released prompts."""
    return tuple(
        ReleasedPrompt(**{**facts, "shape": tuple(facts["shape"])})
        for facts in _listed()["prompts"]
    )


def prompts_folder() -> Path:
    """Returns the folder that holds released prompts, as `MODEL/TASK.npy`."""
    default = "~/.cache/prompt-tuning/prompts"
    return Path(os.environ.get(PROMPTS_VARIABLE) or default).expanduser()


def resolve_model(name: str | os.PathLike[str]) -> str:
    """Returns the path of a model.

    Args:
      name: A path or an address, which is returned as it is; or the name of a released model, in
        T5X's list or at Hugging Face. The latter means the snapshot that Hugging Face's tools have
        downloaded.

    Raises:
      InputError: If there is nothing of that name, or it has not been downloaded.
    """
    path = _existing(name)
    if path is not None:
        return path
    name = os.fspath(name)
    for model in models():
        if name == model.name:
            return model.path
        if name == model.hugging_face:
            return _downloaded(model)
    names = [known for model in models() for known in (model.name, model.hugging_face)]
    raise _missing("model", name, names)


def hugging_face_name(path: str) -> str | None:
    """Returns a model's name at Hugging Face, such as `google/t5-small-lm-adapt`.

    Args:
      path: A name or a path, as `resolve_model` takes it or returns it.

    Returns:
      The name; None where neither the list of released models nor the path says.
    """
    for model in models():
        if path.rstrip("/") in (model.name, model.path, model.hugging_face):
            return model.hugging_face
    # A snapshot in the cache of Hugging Face's tools, see `_downloaded`.
    cached = re.search(r"(?:^|/)models--([^/]+)/snapshots/[^/]+/?$", path)
    return cached[1].replace("--", "/") if cached else None


def resolve_prompt(name: str | os.PathLike[str]) -> str:
    """Returns the path of a prompt.

    Args:
      name: A path or an address, which is returned as it is; or `MODEL/TASK`: a prompt that an
        installed package carries, or a released one that is in `prompts_folder()`.

    Raises:
      InputError: If there is nothing of that name, or it is in several packages, or the released
        file is not on this machine or is another one.
      PluginError: If none has it, and a package's entry point cannot be used.
    """
    path = _existing(name)
    if path is not None:
        return path
    name = os.fspath(name)
    bundled = bundled_prompts.find(name)
    if bundled is not None:
        return str(bundled)
    for prompt in prompts():
        if name == prompt.name:
            return _fetched(prompt)
    names = [prompt.name for prompt in bundled_prompts.installed()]
    names += [prompt.name for prompt in prompts()]
    raise _missing("prompt", name, names)


def _listed() -> dict[str, list[dict[str, Any]]]:
    listed: dict[str, list[dict[str, Any]]] = json.loads(
        Path(__file__).with_name("released.json").read_bytes()
    )
    return listed


def _existing(name: str | os.PathLike[str]) -> str | None:
    path = os.path.expanduser(os.fspath(name))
    return path if "://" in path or os.path.exists(path) else None


def _missing(what: str, name: str, names: Iterable[str]) -> InputError:
    return InputError(
        f"{what} {name}: there is no such file or directory, and no {what} is known by this name"
        # All the names there are would bury the path that was mistyped.
        f"{close(name, names)}"
    )


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
