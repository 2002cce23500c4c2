"""Vocabularies of T5 models in files.

A file is a SentencePiece model, or the `tokenizer.json` of Transformers. Both become a
SentencePiece model in memory, so both give a text the same ids.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import git_lfs, names, readable, tokenizer_json

EXTRA_IDS = 100
"""The number of extra ids in the vocabularies of T5 and mT5."""

_MOST_EXTRA_IDS = 10**6

FILE_NAMES = ("spiece.model", "sentencepiece.model", "tokenizer.model", "tokenizer.json")
"""File names to look for in a folder, in this order: SentencePiece's own form comes first."""

_EXTRA_ID = re.compile(r"▁?<extra_id_(\d+)>")


@runtime_checkable
class Vocabulary(Protocol):
    """Anything that turns text into ids: a seqio vocabulary, a sentencepiece processor."""

    def encode(self, s: str, /) -> Sequence[int]:
        """Returns the ids of the pieces of `s`, without EOS."""


class SentencePieceVocabulary:
    """A vocabulary in a file; gives the same ids as seqio's `SentencePieceVocabulary`.

    The pieces `<extra_id_0>` … follow the model's own pieces. The highest number comes first, so
    `<extra_id_0>` has the last id. (Raffel et al. 2020 use these pieces as sentinels of span
    corruption.) As in seqio, an extra id is a piece only at the beginning of a word, together with
    the space before it; inside a word it is plain text. Extra ids in the file keep their ids; only
    missing ones are added.

    Args:
      sentencepiece_model_file: Path of a SentencePiece model or of a `tokenizer.json`, or of a
        folder that holds one (`FILE_NAMES`). None or "" for the folder of the model
        (VOCABULARY_FILE).
      extra_ids: The number of extra ids, including those in the file (VOCABULARY_EXTRA_IDS).
      model_path: The frozen model, as `formats.locate_model` takes it; used only if the first
        argument names no file.

    Raises:
      InputError: If there is no such file, or `extra_ids` is no whole number. The first use reads
        the file, and raises `InputError` if it is damaged or no vocabulary for a T5.
    """

    pad_id = 0

    def __init__(
        self,
        sentencepiece_model_file: str | os.PathLike[str] | None = None,
        extra_ids: int = EXTRA_IDS,
        model_path: str | os.PathLike[str] | None = None,
    ) -> None:
        if type(extra_ids) is not int or not 0 <= extra_ids <= _MOST_EXTRA_IDS:
            raise InputError(
                f"VOCABULARY_EXTRA_IDS is {extra_ids!r}, expected a whole number from 0 to "
                f"{_MOST_EXTRA_IDS}: the number of extra ids, including those in the file"
            )
        self.sentencepiece_model_file = locate(sentencepiece_model_file, model_path)
        self.extra_ids = extra_ids

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The `sentencepiece.SentencePieceProcessor`, extra ids included."""
        try:
            import sentencepiece
            from sentencepiece import sentencepiece_model_pb2 as protocol
        except ImportError:
            raise InputError(
                "reading a vocabulary needs the packages sentencepiece and protobuf; run: pip "
                "install sentencepiece protobuf"
            ) from None
        model = _read(self.sentencepiece_model_file, protocol)
        self._ids_in_file = len(model.pieces)
        found = {match[1] for piece in model.pieces if (match := _EXTRA_ID.fullmatch(piece.piece))}
        for number in reversed(range(self.extra_ids)):
            if str(number) not in found:
                model.pieces.add(
                    piece=f"▁<extra_id_{number}>", score=0.0, type=model.SentencePiece.USER_DEFINED
                )
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model.SerializeToString())
        except RuntimeError as error:
            raise InputError(
                f"vocabulary {self.sentencepiece_model_file}: SentencePiece refuses it: "
                f"{' '.join(str(error).split())}"
            ) from None
        _check_special_ids(self.sentencepiece_model_file, processor)
        return processor

    @functools.cached_property
    def sha256(self) -> str:
        """Checksum of the file."""
        return hashlib.sha256(_content(self.sentencepiece_model_file)).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of ids, the extra ones included."""
        return self.tokenizer.GetPieceSize()

    @property
    def added_ids(self) -> int:
        """Number of extra ids that the file lacks."""
        size = self.vocab_size  # Reads the file.
        return size - self._ids_in_file

    @property
    def pieces(self) -> list[str]:
        """The pieces by id, the extra ones included."""
        return self.tokenizer.IdToPiece(list(range(self.vocab_size)))

    @property
    def eos_id(self) -> int:
        """The id that ends a sequence."""
        return self.tokenizer.eos_id()

    @property
    def unk_id(self) -> int:
        """The id for text that no piece covers."""
        return self.tokenizer.unk_id()

    def encode(self, s: str) -> list[int]:
        """Returns the ids of the pieces of `s`, without EOS."""
        return self.tokenizer.EncodeAsIds(s)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids` before the first EOS; ids beyond the vocabulary are unknown."""
        kept = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            kept.append(token if token < self.vocab_size else self.unk_id)
        return self.tokenizer.DecodeIds(kept)


def locate(
    path: str | os.PathLike[str] | None,
    model_path: str | os.PathLike[str] | None = None,
    setting: str = "VOCABULARY_FILE",
) -> Path:
    """Finds the file of a vocabulary.

    Args:
      path: A file, which is returned unchanged, or a folder that holds one (`FILE_NAMES`). None or
        "" for the folder of the model.
      model_path: The model, as `formats.locate_model` takes it.
      setting: The name of the setting that holds `path`, for errors.

    Raises:
      InputError: If `path` is in a bucket or the folder holds no vocabulary.
    """
    if path:
        if "://" in os.fspath(path):
            raise InputError(
                f"vocabulary {os.fspath(path)}: in a bucket; copy it to this machine and give the "
                "path of the copy"
            )
        found = Path(path).expanduser()
        return _in_folder(found, f"vocabulary {path}: a folder that holds") or found
    advice = f"set {setting} to the model's SentencePiece model or tokenizer.json"
    if not model_path:
        raise InputError(f"{setting} is not set; {advice}")
    model = names.resolve_model(model_path)
    start = f"{setting} is not set, and the model {model} "
    if "://" in model or not os.path.isdir(model):
        raise InputError(f"{start}is no folder on this machine that could hold it; {advice}")
    return _in_folder(Path(model), f"{start}is a folder that holds", f"; {advice}") or Path(model)


def _in_folder(folder: Path, start: str, advice: str = "") -> Path | None:
    """Returns the vocabulary in a folder, or None if `folder` is no folder."""
    if not folder.is_dir():
        return None
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{start} no vocabulary: none of {', '.join(FILE_NAMES)}{advice}")


def _content(path: Path) -> bytes:
    readable.check_is_file(path, f"vocabulary {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"vocabulary {path}: cannot be read: {error.strerror}") from None
    git_lfs.refuse(content, f"vocabulary {path}")
    return content


def _read(path: Path, protocol: Any) -> Any:
    """Reads a file of either form as a SentencePiece `ModelProto`."""
    content = _content(path)
    # A SentencePiece model never starts with a brace: it starts with the tag of its first field.
    if path.suffix == ".json" or content[:1] == b"{":
        return tokenizer_json.to_sentencepiece(content, f"vocabulary {path}", protocol)
    model = protocol.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError; its module differs between versions
        raise InputError(f"vocabulary {path}: not a SentencePiece model: {error}") from None
    if not model.pieces:
        raise InputError(f"vocabulary {path}: not a SentencePiece model: it has no pieces")
    return model


def _check_special_ids(path: Path, processor: Any) -> None:
    """Checks that padding has the id 0, as T5 needs it, and that there is an EOS."""
    if processor.pad_id() != 0:
        raise InputError(
            f"vocabulary {path}: its padding id is {processor.pad_id()}, expected 0, which every "
            "T5 pads with; give the vocabulary of the T5 model"
        )
    if processor.eos_id() < 0:
        raise InputError(
            f"vocabulary {path}: it has no EOS (its EOS id is {processor.eos_id()}), which ends "
            "every text of a T5; give the vocabulary of the T5 model"
        )


def check_same(prompt: str, trained_with: object, vocabulary: object) -> None:
    """Refuses a prompt that was trained with another vocabulary.

    Args:
      prompt: The prompt's file, for messages.
      trained_with: The entry `vocabulary` of its provenance.
      vocabulary: The model's vocabulary. It is compared only if it is a file on this machine
        (`sentencepiece_model_file`).

    Raises:
      InputError: If the checksums of the two vocabularies differ.
    """
    ours = getattr(vocabulary, "sentencepiece_model_file", None)
    if not isinstance(trained_with, Mapping) or ours is None or not os.path.isfile(ours):
        return
    expected = trained_with.get("sha256")
    with open(ours, "rb") as stream:
        if expected not in (None, hashlib.file_digest(stream, "sha256").hexdigest()):
            raise InputError(
                f"prompt {prompt}: by its provenance it was trained with the vocabulary "
                f"{trained_with.get('path')} (sha256 {expected}), and this model has {ours}; use a "
                "prompt of this model"
            )
