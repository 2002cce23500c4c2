"""Vocabularies in files: SentencePiece models and Transformers' tokenizer.json."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path

import golden_data
import pytest
from sentencepiece import sentencepiece_model_pb2 as protocol

from prompt_tuning_core.errors import InputError
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SMALL = golden_data.VOCABULARY
DEMO = ROOT / "plugins/demo/src/prompt_tuning_demo/model/spiece.model"
USER_DEFINED, BYTE = 4, 6  # Kinds of pieces.


@pytest.fixture(scope="module")
def saved():
    """The demo's vocabulary as Transformers saved it."""
    return lzma.decompress((GOLDEN / "transformers_tokenizer.json.xz").read_bytes()).decode()


def proto(path=SMALL):
    model = protocol.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def written(path, model):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def extra_ids(count, space="▁"):
    return [f"{space}<extra_id_{number}>" for number in reversed(range(count))]


def with_pieces(pieces, kind=USER_DEFINED, path=SMALL, at=None):
    """A SentencePiece model with more pieces, at its end or elsewhere."""
    model = proto(path)
    old = list(model.pieces)
    at = len(old) if at is None else at
    new = [protocol.ModelProto.SentencePiece(piece=piece, score=0.0, type=kind) for piece in pieces]
    del model.pieces[:]
    model.pieces.extend([*old[:at], *new, *old[at:]])
    return model


def texts():
    """1,000 texts of words and signs that normalizers and tokenizers treat differently."""
    words = [
        "film", "a", "great", "the", "plot", "isn't", "3.14", "...", "▁", "日本語", "한국",
        # Accents, and the same decomposed, two on one letter, and alone.
        "café", "naïve", "cafe\u0301", "nai\u0308ve", "a\u030a", "e\u0301\u0301", "\u0301",
        # Emoji, joined ones, flags; a ligature, a digit in a circle, full width, case that grows.
        "😀", "👩\u200d👩\u200d👧", "🇩🇪", "\ufb01ne", "①", "\uff26\uff55\uff4c\uff4c", "ß", "İ",
        "<extra_id_0>", "<extra_id_7>", "<extra_id_99>", "<extra_id_100>",
        "<pad>", "</s>", "<unk>", "<0x41>",
    ]  # fmt: skip
    spaces = ["\u3000", "\u00a0", "\t", "\n", "\u200b"]
    rng = random.Random(0)
    found = ["", " ", "  ", "\t", "<extra_id_0>", "film<extra_id_0>film", " <extra_id_0> "]
    while len(found) < 1000:
        text = rng.choice(["", " ", "  "])
        for _ in range(rng.randint(1, 10)):
            text += rng.choice([*words, *words, *spaces]) + rng.choice([" ", " ", "  ", ""])
        found.append(text)
    return found


def saved_with_bytes(saved):
    """The saved vocabulary as Transformers saves mT5's: extra ids and bytes among its pieces."""
    content = json.loads(saved)
    vocab = content["model"]["vocab"]
    bytes_ = [[f"<0x{value:02X}>", 0.0] for value in range(256)]
    content["model"]["vocab"] = [
        *vocab[:3], *bytes_, *vocab[3:-100], *([piece, 0.0] for piece in extra_ids(100))
    ]  # fmt: skip
    for token in content["added_tokens"][3:]:
        token.update(id=token["id"] + 256, content="▁" + token["content"], special=False)
    return content


def test_both_forms_of_a_vocabulary_give_the_same_ids(saved, tmp_path):
    forms = []
    for name, model, tokenizer in [
        ("t5", proto(DEMO), json.loads(saved)),
        ("mt5", with_pieces(extra_ids(100), path=DEMO), saved_with_bytes(saved)),
    ]:
        if name == "mt5":
            model.trainer_spec.byte_fallback = True
            ordinary = list(model.pieces)
            del model.pieces[3:]
            for value in range(256):
                model.pieces.add(piece=f"<0x{value:02X}>", score=0.0, type=BYTE)
            model.pieces.extend(ordinary[3:])
        ours = SentencePieceVocabulary(written(tmp_path / name / "spiece.model", model))
        (tmp_path / f"{name}.json").write_text(json.dumps(tokenizer))
        theirs = SentencePieceVocabulary(tmp_path / f"{name}.json")
        assert theirs.pieces == ours.pieces
        assert (theirs.eos_id, theirs.unk_id) == (ours.eos_id, ours.unk_id) == (1, 2)
        forms.append((ours, theirs))
    for text in texts():
        for ours, theirs in forms:
            ids = ours.encode(text)
            assert theirs.encode(text) == ids, repr(text)
            assert theirs.decode(ids) == ours.decode(ids)
    assert forms[0][1].encode("<extra_id_0> <extra_id_99>") == [4095, 3996]
    # Four bytes and a space before them; no piece of the vocabulary is unknown then.
    assert len(forms[1][1].encode("😀")) == 5


def older(content):
    """Transformers 4 wrote other steps, and with some versions no extra ids among the pieces."""
    content["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "add_prefix_space": True
    }  # fmt: skip
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], spaces]}
    del content["model"]["vocab"][-100:]


def test_the_steps_that_older_files_have(saved, tmp_path):
    content = json.loads(saved)
    older(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ours, theirs = SentencePieceVocabulary(DEMO), SentencePieceVocabulary(tmp_path)
    assert theirs.pieces == ours.pieces
    for text in texts()[:100]:
        assert theirs.encode(text) == ours.encode(text)


BAD_TOKENIZERS = {
    "is no object": (lambda c: [], "has no 'model'"),
    "kind": (lambda c: c["model"].update(type="BPE"), "its model is 'BPE', expected 'Unigram'"),
    "damaged": (lambda c: c["model"].pop("vocab"), "not as Hugging Face's tokenizers write it"),
    "no unknown": (lambda c: c["model"].update(unk_id=None), "not as Hugging Face's tokenizers"),
    "map": (lambda c: c["normalizer"].update(precompiled_charsmap="?"), "(Error: "),
    "normalizer": (
        lambda c: c.update(normalizer={"type": "Lowercase"}), "has the step 'Lowercase'"
    ),
    "pre-tokenizer": (
        lambda c: c.update(pre_tokenizer={"type": "ByteLevel"}), "pre-tokenizer is ['ByteLevel']"
    ),
    "no spaces": (lambda c: c.update(pre_tokenizer=None), "its pre-tokenizer is [], expected Meta"),
    "no space before": (
        lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(prepend_scheme="never"),
        "expected a '▁' for each space and one before the text",
    ),
    "added": (
        lambda c: c["added_tokens"].append({"id": 4096, "content": "<sep>", "special": True}),
        "the token '<sep>' was added to the vocabulary",
    ),
    "gap": (
        lambda c: c["added_tokens"].append({"id": 5000, "content": "<sep>", "special": True}),
        "the added token '<sep>' has the id 5000, expected 4096",
    ),
    "twice": (
        lambda c: c["model"]["vocab"].extend([piece, 0.0] for piece in extra_ids(100)),
        "has extra ids twice, as '▁<extra_id_99>' and as '<extra_id_99>'",
    ),
    "a piece twice": (
        lambda c: c["model"]["vocab"].insert(9, ["film", 0.0]), "the added token '<extra_id_"
    ),
    "no padding": (
        lambda c: (c["model"]["vocab"][0].__setitem__(0, "<none>"), c["added_tokens"].pop(0)),
        "its padding id is -1, expected 0",
    ),
}  # fmt: skip


def test_what_no_sentencepiece_model_can_be_is_named(saved, tmp_path):
    path = tmp_path / "tokenizer.json"
    for name, (change, expected) in BAD_TOKENIZERS.items():
        content = json.loads(saved)
        changed = change(content)
        path.write_text(json.dumps([] if changed == [] else content))
        with pytest.raises(InputError) as raised:
            SentencePieceVocabulary(tmp_path).encode("a")
        assert expected in str(raised.value), name
        assert str(raised.value).startswith(f"vocabulary {path}: "), name
        assert "\n" not in str(raised.value), name
    path.write_text(saved[:1000])
    with pytest.raises(InputError, match="not readable as JSON"):
        SentencePieceVocabulary(tmp_path).encode("a")


@pytest.mark.parametrize(
    ("in_file", "wanted", "size", "first", "last"),
    [
        # As seqio adds them to a file without.
        ([], 100, 126, 125, 26),
        ([], 0, 26, None, None),
        # mT5's file, T5X's "100extra"; the total is 100 by default, and what is there stays.
        (extra_ids(100), 100, 126, 125, 26),
        (extra_ids(100), 0, 126, 125, 26),
        (extra_ids(100, ""), 100, 126, None, None),
        # The missing ones follow.
        (extra_ids(4), 100, 126, 29, 30),
        (extra_ids(100), 104, 130, 125, 26),
    ],
    ids=["none", "none, 0", "all", "all, 0", "all without a space", "some", "more"],
)
def test_extra_ids_of_the_file_count(tmp_path, in_file, wanted, size, first, last):
    path = written(tmp_path / "some.model", with_pieces(in_file))
    vocabulary = SentencePieceVocabulary(path, wanted)
    assert vocabulary.vocab_size == size
    assert vocabulary.added_ids == size - 26 - len(in_file)
    if first is not None:
        assert vocabulary.encode("<extra_id_0> <extra_id_99>") == [first, last]
    for piece in in_file:
        assert vocabulary.tokenizer.PieceToId(piece) == 26 + in_file.index(piece)


def llama(model):
    """Names of pieces in the order of LLaMA's file: no padding, `<unk>` first."""
    model.trainer_spec.ClearField("pad_id")
    model.pieces[0].piece, model.pieces[1].piece = "<s>", "</s>"


def padded_elsewhere(model):
    pad, eos = model.pieces[0].piece, model.pieces[1].piece
    model.pieces[0].piece, model.pieces[1].piece = eos, pad


def without_eos(model):
    model.pieces[1].piece = "<s>"


def without_unknown(model):
    for piece in model.pieces:
        piece.type = piece.NORMAL if piece.type == piece.UNKNOWN else piece.type


def with_a_score(model):
    model.pieces[9].score = float("nan")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (llama, "its padding id is -1, expected 0"),
        (padded_elsewhere, "its padding id is 1, expected 0"),
        (without_eos, r"it has no EOS \(its EOS id is -1\)"),
        (without_unknown, "SentencePiece refuses it: .*unk is not defined"),
        (with_a_score, "SentencePiece refuses it: .*score is NaN or Inf"),
        (lambda model: model.pieces.add(piece="e"), "SentencePiece refuses it: .*e is already def"),
    ],
    ids=["LLaMA", "padding elsewhere", "no EOS", "no unknown", "NaN", "a piece twice"],
)
def test_vocabularies_that_no_t5_can_have_are_refused(tmp_path, change, expected):
    model = proto()
    change(model)
    path = written(tmp_path / "other.model", model)
    with pytest.raises(InputError, match=f"^vocabulary {path}: {expected}"):
        SentencePieceVocabulary(path).encode("this")


def test_where_a_vocabulary_is_looked_for(tmp_path):
    model = tmp_path / "model"
    model.mkdir()

    def found(path=None, model_path=None):
        return SentencePieceVocabulary(path, model_path=model_path).sentencepiece_model_file

    for path, model_path, expected in [
        (
            None,
            None,
            "VOCABULARY_FILE is not set; set VOCABULARY_FILE to the model's SentencePiece",
        ),
        (
            None,
            model,
            f"VOCABULARY_FILE is not set, and the model {model} is a folder that holds no",
        ),
        (model, None, f"vocabulary {model}: a folder that holds no vocabulary: none of spiece.mod"),
        (None, SMALL, "is no folder on this machine"),
        (None, "t5_1_1_lm100k_base", "VOCABULARY_FILE is not set, and the model gs://t5-data/"),
        ("gs://t5-data/x.model", model, "vocabulary gs://t5-data/x.model: in a bucket; copy it"),
    ]:
        with pytest.raises(InputError, match=expected):
            found(path, model_path)
    for name in ("tokenizer.json", "tokenizer.model", "sentencepiece.model", "spiece.model"):
        (model / name).touch()
        assert found(model) == found(None, model) == found("", model) == model / name
    assert found(SMALL, model) == SMALL
    with pytest.raises(InputError, match="VOCABULARY_EXTRA_IDS is -1, expected a whole number"):
        SentencePieceVocabulary(SMALL, -1)
