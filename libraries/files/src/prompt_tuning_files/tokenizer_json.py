"""Converts the `tokenizer.json` of Hugging Face's tokenizers to a SentencePiece model.

Transformers makes this file from a SentencePiece model: the pieces with their scores, the compiled
map of characters, and how spaces become `▁`. This is enough to make the model again.
T5 was trained with SentencePiece, and the library `tokenizers` gives some texts other ids. For
example, it finds `<extra_id_0>` within a word, has no pieces for bytes, and normalizes a lone
accent in another way.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import strict_json

_CONTROL = ("<pad>", "</s>", "<s>")
_EXTRA = re.compile(r"▁?<extra_id_\d+>")
_BYTES = {f"<0x{value:02X}>" for value in range(256)}
_SPACE = "▁"
_ADVICE = "give the SentencePiece model (spiece.model) that it was made from"


def to_sentencepiece(content: bytes, name: str, protocol: Any) -> Any:
    """Makes a SentencePiece model of a `tokenizer.json`.

    Extra ids get the name that seqio gives them, `▁<extra_id_0>`. For settings that the file lacks,
    the result has the values of every T5 vocabulary: there is a space before the text, and several
    spaces count as one.

    Args:
      content: The file's content.
      name: The name of the file in errors.
      protocol: The module `sentencepiece.sentencepiece_model_pb2`.

    Returns:
      A `ModelProto`.

    Raises:
      InputError: If it is damaged, if its kind is not T5's (Unigram), or if it has a step or a
        token that SentencePiece cannot have.
    """
    try:
        found = strict_json.loads(content)
    except ValueError as error:
        raise InputError(f"{name}: not readable as JSON ({error}); copy it again") from None
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict):
        raise InputError(f"{name}: no tokenizer.json of Hugging Face's tokenizers: has no 'model'")
    if model.get("type") != "Unigram":
        raise InputError(
            f"{name}: its model is {model.get('type')!r}, expected 'Unigram', the kind of T5's "
            "vocabularies; is it the tokenizer of another model?"
        )
    try:
        return _convert(found, model, name, protocol)
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: not as Hugging Face's tokenizers write it ({type(error).__name__}: {error}); "
            f"copy it again, or {_ADVICE}"
        ) from None


def _convert(found: Mapping[str, Any], model: Mapping[str, Any], name: str, protocol: Any) -> Any:
    pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
    added = sorted(found.get("added_tokens") or (), key=lambda token: token["id"])
    pieces += _added_pieces(added, [piece for piece, _ in pieces], name)
    special = {token["content"]: bool(token["special"]) for token in added}
    names = {piece for piece, _ in pieces}
    result = protocol.ModelProto()
    kinds = result.SentencePiece
    has_bytes = names >= _BYTES
    for number, (piece, score) in enumerate(pieces):
        if _EXTRA.fullmatch(piece):
            if _SPACE + piece in names:
                raise InputError(
                    f"{name}: has extra ids twice, as {_SPACE + piece!r} and as {piece!r}; save "
                    f"the tokenizer with extra_ids=0, or {_ADVICE}"
                )
            piece, kind = _SPACE + piece.removeprefix(_SPACE), kinds.USER_DEFINED
        elif number == model["unk_id"]:
            kind = kinds.UNKNOWN
        elif piece in _CONTROL or special.get(piece):
            kind = kinds.CONTROL
        elif piece in special:
            kind = kinds.USER_DEFINED
        elif has_bytes and piece in _BYTES:
            kind = kinds.BYTE
        else:
            kind = kinds.NORMAL
        result.pieces.add(piece=piece, score=score, type=kind)
    result.trainer_spec.model_type = result.trainer_spec.UNIGRAM
    result.trainer_spec.vocab_size = len(pieces)
    result.trainer_spec.unk_piece = pieces[model["unk_id"]][0]
    result.trainer_spec.byte_fallback = has_bytes
    result.normalizer_spec.name = "from tokenizer.json"
    result.normalizer_spec.precompiled_charsmap = _character_map(found.get("normalizer"), name)
    _check_spaces(found.get("pre_tokenizer"), name)
    return result


def _added_pieces(
    added: Sequence[Mapping[str, Any]], pieces: Sequence[str], name: str
) -> Iterator[tuple[str, float]]:
    """Yields the added tokens whose ids follow the pieces; each must be an extra id."""
    size = len(pieces)
    for token in added:
        number, content = token["id"], token["content"]
        if number < len(pieces) and pieces[number] == content:
            continue
        if number != size:
            raise InputError(
                f"{name}: the added token {content!r} has the id {number}, expected {size}, the "
                f"next after the pieces; copy the file again, or {_ADVICE}"
            )
        if not _EXTRA.fullmatch(content):
            raise InputError(
                f"{name}: the token {content!r} was added to the vocabulary, and no SentencePiece "
                f"model has one that is cut out of the text as Transformers does; {_ADVICE}, if no "
                "text holds this token"
            )
        yield content, 0.0
        size += 1


def _character_map(normalizer: Mapping[str, Any] | None, name: str) -> bytes:
    """Returns SentencePiece's map of characters; empty for a file that normalizes nothing."""
    result = b""
    for step in _steps(normalizer, "normalizers"):
        if step["type"] == "Precompiled":
            result = base64.b64decode(step["precompiled_charsmap"] or "", validate=True)
        # This step joins spaces; SentencePiece always does.
        elif step["type"] == "Replace" and step["pattern"] == {"Regex": " {2,}"}:
            continue
        elif step["type"] != "Strip":
            raise InputError(
                f"{name}: its normalizer has the step {step['type']!r}, which T5's vocabularies do "
                f"not have; {_ADVICE}"
            )
    return result


def _check_spaces(pre_tokenizer: Mapping[str, Any] | None, name: str) -> None:
    """Checks that spaces become `▁`, with one before the text, as in every T5 vocabulary."""
    steps = list(_steps(pre_tokenizer, "pretokenizers"))
    spaces = [step for step in steps if step["type"] == "Metaspace"]
    others = [s["type"] for s in steps if s["type"] not in ("Metaspace", "WhitespaceSplit")]
    if others or len(spaces) != 1:
        raise InputError(
            f"{name}: its pre-tokenizer is {[step['type'] for step in steps]}, expected Metaspace "
            f"and at most WhitespaceSplit before it, as T5's; {_ADVICE}"
        )
    replacement = spaces[0].get("replacement", _SPACE)
    prepended = spaces[0].get("prepend_scheme", "always") != "never"
    if replacement != _SPACE or not prepended or not spaces[0].get("add_prefix_space", True):
        raise InputError(
            f"{name}: its pre-tokenizer is {spaces[0]}, expected a {_SPACE!r} for each space and "
            f"one before the text, as T5's; {_ADVICE}"
        )


def _steps(processor: Mapping[str, Any] | None, several: str) -> Iterator[Mapping[str, Any]]:
    """Yields the steps of a normalizer or pre-tokenizer, including the steps in its sequences."""
    if processor is None:
        return
    if processor["type"] != "Sequence":
        yield processor
        return
    for step in processor[several]:
        yield from _steps(step, several)
