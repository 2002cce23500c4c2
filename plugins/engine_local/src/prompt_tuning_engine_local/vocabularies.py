"""SentencePiece vocabularies with T5's extra ids, without TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_tuning_core.errors import InputError


class SentencePieceVocabulary:
    """A SentencePiece model; gives the same ids as seqio's vocabulary of the same name.

    The pieces `<extra_id_0>` … follow the model's own, the highest number first, so that
    `<extra_id_0>` has the last id (Raffel et al. 2020 use them as sentinels of span corruption).
    As in seqio, one is a piece where a word begins, with the space before it, and text elsewhere.

    Args:
      sentencepiece_model_file: Path of the `.model` file; read at first use.
      extra_ids: How many extra ids to add.
    """

    pad_id = 0

    def __init__(
        self, sentencepiece_model_file: str | os.PathLike[str], extra_ids: int = 100
    ) -> None:
        self.sentencepiece_model_file = Path(sentencepiece_model_file).expanduser()
        self.extra_ids = extra_ids

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The `sentencepiece.SentencePieceProcessor`."""
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as protocol

        path = self.sentencepiece_model_file
        model = protocol.ModelProto()  # type: ignore[attr-defined]  # made at run time
        try:
            model.ParseFromString(path.read_bytes())
        except OSError as e:
            raise InputError(f"vocabulary {path}: cannot be read: {e.strerror}") from None
        except Exception as e:  # protobuf's DecodeError; its module differs between versions
            raise InputError(f"vocabulary {path}: not a SentencePiece model: {e}") from None
        if not model.pieces:
            raise InputError(f"vocabulary {path}: not a SentencePiece model: it has no pieces")
        for number in reversed(range(self.extra_ids)):
            model.pieces.add(
                piece=f"▁<extra_id_{number}>", score=0.0, type=model.SentencePiece.USER_DEFINED
            )
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model.SerializeToString())
        return processor

    @functools.cached_property
    def sha256(self) -> str:
        """Checksum of the model file."""
        return hashlib.sha256(self.sentencepiece_model_file.read_bytes()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of ids, the extra ones included."""
        return self.tokenizer.GetPieceSize()

    @property
    def eos_id(self) -> int:
        """The id that ends a sequence."""
        return self.tokenizer.eos_id()

    @property
    def unk_id(self) -> int:
        """The id of what the vocabulary has no piece for."""
        return self.tokenizer.unk_id()

    def encode(self, s: str) -> list[int]:
        """Returns the ids of the pieces of `s`, without EOS."""
        return self.tokenizer.EncodeAsIds(s)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids` up to the first EOS; ids outside the vocabulary are unknown."""
        kept = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            kept.append(token if token < self.vocab_size else self.unk_id)
        return self.tokenizer.DecodeIds(kept)
