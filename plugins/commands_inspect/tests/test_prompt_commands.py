"""`prompt show` and `prompt convert`."""

from __future__ import annotations

import json
from pathlib import Path

import golden_data
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from prompt_tuning_commands_inspect import nearest_pieces
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import prompt_files
from prompt_tuning_files.embeddings import EMBEDDING_VARIABLE
from prompt_tuning_files.formats import Variable
from prompt_tuning_files.vocabularies import SentencePieceVocabulary

VOCABULARY = golden_data.VOCABULARY
PROVENANCE = {
    "task": {"name": "reviews"},
    "seed": 0,
    "initializer": [f"a line of gin, number {number} of several" for number in range(3)],
    "config": "two\nlines\n",
}


@pytest.fixture
def prompt(site):
    """A prompt of width 4 with its provenance: `prompt.npy`."""
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    prompt_files.save(site.cwd / "prompt.npy", array, PROVENANCE)
    return array


def write_model(path, table):
    safetensors.numpy.save_file({EMBEDDING_VARIABLE: table}, path)


def test_a_prompt_crosses_forms_unchanged(site, prompt, main):
    there = site.command("prompt", "convert", "prompt.npy", "other.safetensors")
    assert there.stdout == "wrote other.safetensors: float32 (3, 4)\n", there.stderr
    Path(site.cwd, "back.npy").touch()
    back = main("prompt", "convert", "other.safetensors", "back.npy")
    assert back == (0, "replaced back.npy: float32 (3, 4)\n", "")
    for file in ("prompt.npy", "prompt.json"):
        converted = site.cwd / file.replace("prompt", "back")
        if file.endswith(".npy"):
            assert converted.read_bytes() == (site.cwd / file).read_bytes()
        else:
            assert json.loads(converted.read_text()) == json.loads((site.cwd / file).read_text())


def test_the_directory_of_a_run_means_its_newest_prompt(site, prompt, main):
    for step in (9, 10):
        prompt_files.save(site.cwd / "run" / f"prompt_{step}.npy", step * prompt, {"step": step})
    _, shown, error = main("prompt", "show", "run")
    assert ["step", "10"] in [line.split() for line in shown.splitlines()], error
    assert str(Path("run", "prompt_10.npy")) in shown


def test_what_is_shown_of_a_prompt(site, prompt):
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY))
    size = tokenizer.GetPieceSize()
    table = np.random.default_rng(1).standard_normal((size + 104, 4)).astype(np.float32)
    table[7] = 3 * prompt[0]
    table[size] = 0.5 * prompt[1]  # The first of the extra ids.
    table[-1] = prompt[2]  # Padding: no id of the vocabulary.
    write_model(site.cwd / "model.safetensors", table)
    process = site.command(
        "prompt", "show", "prompt.npy", "--model=model.safetensors",
        f"--vocabulary={VOCABULARY}", "--nearest=2",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    lines = [line.split() for line in process.stdout.splitlines()]
    assert ["form", "npy"] in lines
    assert ["shape", "(3,", "4)"] in lines
    assert ["norm", f"{np.linalg.norm(prompt):.4g}"] in lines
    assert ["task.name", "reviews"] in lines
    assert ["config", "2", "lines"] in lines
    assert f"initializer.2 {PROVENANCE['initializer'][2]}" in [" ".join(line) for line in lines]
    positions = lines[-3:]
    assert [row[:2] for row in positions] == [
        [str(number), f"{np.linalg.norm(row):.4g}"] for number, row in enumerate(prompt)
    ]
    assert [len(row) for row in positions] == [6, 6, 6]
    assert positions[0][2:4] == [tokenizer.IdToPiece(7), "1.00"]
    assert positions[1][2:4] == ["▁<extra_id_99>", "1.00"]
    assert positions[2][3] != "1.00"


def test_what_cannot_be_shown_is_told(site, prompt, main):
    write_model(site.cwd / "model.safetensors", np.ones((6, 5), np.float32))
    model = "--model=model.safetensors"
    for arguments, expected in [
        ([model], "--vocabulary is not set, and the model model.safetensors"),
        (["--vocabulary=no.model"], "--vocabulary needs --model"),
        (["--nearest=3"], "--nearest needs --model"),
        (["--vocabulary=no.model", model], "no.model: cannot be read: No"),
        (["--vocabulary=prompt.npy", model], "not a SentencePiece model"),
        ([f"--vocabulary={VOCABULARY}", model], "width 4, and the model 5"),
    ]:
        code, _, error = main("prompt", "show", "prompt.npy", *arguments)
        assert (code, error.count("\n")) == (2, 1), arguments
        assert expected in error


def test_prompts_that_have_a_name_are_listed(site):
    lines = [line.split() for line in site.command("prompt", "list").stdout.splitlines()]
    assert lines[0] == ["NAME", "FROM", "FILE"]
    assert ["t5_1_1_lm100k_base/sst2", "prompt-tuning-catalog-google"] in [
        line[:2] for line in lines
    ]


def test_without_sentencepiece_the_way_to_get_it_is_told(site, prompt):
    write_model(site.cwd / "model.safetensors", np.ones((6, 4), np.float32))
    (site.folder / "sentencepiece.py").write_text("raise ImportError")
    arguments = ("prompt.npy", "--model=model.safetensors", f"--vocabulary={VOCABULARY}")
    assert "run: pip install sentencepiece" in site.error("prompt", "show", *arguments)


def test_the_vocabulary_is_that_of_the_provenance():
    vocabulary = SentencePieceVocabulary(VOCABULARY)
    with pytest.raises(InputError, match="the provenance of the prompt names 00; give the"):
        nearest_pieces.read_pieces(vocabulary, {"sha256": "00"})
    for size in (26, 64, 126):
        known = {"sha256": vocabulary.sha256, "size": size}
        assert nearest_pieces.read_pieces(vocabulary, known) == vocabulary.pieces[:26] + [
            f"▁<extra_id_{number}>" for number in reversed(range(size - 26))
        ]


def test_the_vocabulary_and_the_table_of_the_released_models(site, prompt, main):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(VOCABULARY.read_bytes())
    for number in range(26, 32000):
        model.pieces.add(piece=f"piece{number}", score=-20.0)
    for number in reversed(range(100)):
        model.pieces.add(piece=f"▁<extra_id_{number}>", type=4)
    (site.cwd / "model").mkdir()
    (site.cwd / "model" / "sentencepiece.model").write_bytes(model.SerializeToString())
    table = np.random.default_rng(1).standard_normal((32128, 4)).astype(np.float32)
    table[[5, 32099, 32127]] = prompt  # The last one is padding: no piece.
    write_model(site.cwd / "model" / "model.safetensors", table)
    code, shown, error = main("prompt", "show", "prompt.npy", "--model=model", "--nearest=1")
    assert code == 0, error
    positions = [line.split()[2:] for line in shown.splitlines()[-3:]]
    assert positions[:2] == [[model.pieces[5].piece, "1.00"], ["▁<extra_id_0>", "1.00"]]
    assert positions[2][0] in {piece.piece for piece in model.pieces}
    # A piece more than the table has rows.
    write_model(site.cwd / "model" / "model.safetensors", table[:32099])
    line = main("prompt", "show", "prompt.npy", "--model=model")[2]
    assert "the vocabulary has 32100 ids, and the model's embedding table 32099 rows" in line


class Table:
    """A model that is one table, and remembers how many rows were asked for at a time."""

    step = 0

    def __init__(self, table):
        self.table = table
        self.variables = {EMBEDDING_VARIABLE: Variable(table.shape, "float32")}
        self.asked = []

    def rows(self, name, ids):
        self.asked.append(len(ids))
        return self.table[ids]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_nearest_rows_are_found_in_blocks(rows, count, block, seed):
    rng = np.random.default_rng(seed)
    # Small integers: many cosines are equal, and a row may be zero.
    table = rng.integers(-1, 2, (rows + 3, 3)).astype(np.float32)
    prompt = rng.integers(-1, 2, (4, 3)).astype(np.float32)
    model = Table(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_pieces, "_BLOCK_BYTES", block * 12)
        ids, cosines = nearest_pieces.nearest_rows(model, prompt, count, rows)
    assert max(model.asked) <= block
    assert ids.shape == cosines.shape == (4, min(count, rows))
    for position, vector in enumerate(prompt):
        lengths = np.linalg.norm(table[:rows], axis=1) * np.linalg.norm(vector)
        expected = table[:rows] @ vector / np.where(lengths == 0, 1, lengths)
        np.testing.assert_allclose(cosines[position], expected[ids[position]], atol=1e-6)
        np.testing.assert_allclose(cosines[position], np.sort(expected)[::-1][:count], atol=1e-6)


def test_a_table_with_fewer_rows_than_the_vocabulary_is_another_models():
    with pytest.raises(InputError, match="has 9 ids, and the model's embedding table 8 rows"):
        nearest_pieces.nearest_rows(Table(np.ones((8, 2))), np.ones((1, 2)), 1, rows=9)
