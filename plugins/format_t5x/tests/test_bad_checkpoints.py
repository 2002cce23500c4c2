"""Damaged and unsuitable checkpoints are errors of one line, never wrong numbers."""

from __future__ import annotations

import pickle
import re
import shutil

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_tuning_core.commands.main import main
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import embeddings, formats
from prompt_tuning_files.git_lfs import POINTER
from prompt_tuning_format_t5x import T5X, T5XOrbax

EMBEDDING = "token_embedder/embedding"
PROMPT = "encoder/prompt/prompt/prompt"
LEGACY = ("t5x_checkpoint_prompt", "checkpoint_0")
ORBAX = ("t5x_orbax", "checkpoint_7/state")


def expect_error(path, *parts):
    """Checks that opening, or reading the embedding, is an error of one line with these parts."""
    with pytest.raises(InputError) as caught:
        formats.open_model(path).read(EMBEDDING)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


FILES = pytest.mark.parametrize(
    ("form", "place", "file"),
    [
        (T5X, LEGACY, "checkpoint"),
        (T5X, LEGACY, "target.token_embedder.embedding/.zarray"),
        (T5X, LEGACY, "target.token_embedder.embedding/0.0"),
        (T5XOrbax, ORBAX, "_METADATA"),
        (T5XOrbax, ORBAX, "manifest.ocdbt"),
    ],
)


@FILES
def test_pointers_of_git_lfs(unpack, form, place, file):
    directory = unpack(place[0]) / place[1]
    (directory / file).write_text(f"{POINTER.decode()}\noid sha256:0a\nsize 7\n")
    expect_error(directory, f"{file}: a Git LFS pointer, not the file")


@FILES
def test_damage_gives_the_right_model_or_an_error(unpack, parameters, prompt, form, place, file):
    """Damages an index, a header, metadata, and data with a checksum (gzip chunks)."""
    directory = unpack(place[0]) / place[1]
    expected = {**parameters, PROMPT: prompt}
    variables = {name: formats.Variable(array.shape, "float32") for name, array in expected.items()}
    content = (directory / file).read_bytes()
    step = 7 if form is T5XOrbax else 0

    @settings(max_examples=120)
    @given(
        position=st.integers(0, len(content) - 1),
        change=st.one_of(st.sampled_from([1 << bit for bit in range(8)]), st.integers(1, 255)),
        cut=st.sampled_from([False, False, False, True]),
    )
    def check(position, change, cut):
        rest = b"" if cut else bytes([content[position] ^ change]) + content[position + 1 :]
        (directory / file).write_bytes(content[:position] + rest)
        message = ""
        try:
            model = form().open_model(str(directory))
            if dict(model.variables) != variables:
                return  # The engine compares names and shapes with those of the model in gin.
            assert model.step == step
            for name in (EMBEDDING, PROMPT, "encoder/layers_1/mlp/wo/kernel"):
                np.testing.assert_array_equal(model.read(name), expected[name], strict=True)
        except InputError as error:
            message = str(error)
        assert "\n" not in message

    check()


def test_a_damaged_index_is_still_recognized(unpack):
    directory = unpack("t5x_orbax") / "checkpoint_7"
    (directory / "state" / "_METADATA").write_bytes(b"")
    expect_error(directory, "_METADATA: not a readable index of an Orbax checkpoint", "copy it")
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / "checkpoint").write_bytes(b"")
    expect_error(directory, "checkpoint: not a readable index of a T5X checkpoint", "copy it")


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("opened").touch, ())

    # The first byte of a pickle is that of an empty map in msgpack.
    (tmp_path / "checkpoint").write_bytes(pickle.dumps(Trap()))
    expect_error(tmp_path, "not a readable index of a T5X checkpoint")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("place", "files", "message"),
    [
        (LEGACY, "target.token_embedder.embedding/0.0", '0.0" is missing'),
        (
            LEGACY,
            "target.token_embedder.embedding/.zarray",
            ".zarray is missing; is the checkpoint",
        ),
        (ORBAX, "manifest.ocdbt", ".zarray is missing; is the checkpoint complete?"),
        (ORBAX, "ocdbt.process_0/d/*", "cannot be read"),
    ],
)
def test_a_missing_file_is_an_error(unpack, place, files, message):
    directory = unpack(place[0]) / place[1]
    for file in list(directory.glob(files)):
        file.unlink()
    expect_error(directory, str(directory), message)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        (None, None, "token_embedder/embedding: its spec has no dtype"),
        (None, "float32", "token_embedder/embedding: dtype 'float32'"),
        (None, ">f4", "token_embedder/embedding: dtype '>f4'"),
        ("bfloat16", "<f4", "token_embedder/embedding: its spec says bfloat16 and float32"),
        (None, "<f8", "has float32 (64, 32), and the index of the checkpoint says float64"),
        (None, "<u2", "token_embedder/embedding is uint16: until June 2021, T5X wrote bfloat16"),
    ],
)
def test_the_dtype_of_a_spec_of_2021(unpack, outer, inner, expected):
    file = unpack("t5x_checkpoint_2021") / "checkpoint_0" / "checkpoint"
    index = msgpack.unpackb(file.read_bytes())
    spec = index["optimizer"]["target"]["token_embedder"]["embedding"]
    for place, value in ((spec, outer), (spec["metadata"], inner)):
        place.pop("dtype", None)
        if value is not None:
            place["dtype"] = value
    file.write_bytes(msgpack.packb(index))
    expect_error(file.parent, expected)


@pytest.mark.parametrize("given", ["", "/checkpoint", "/model.ckpt-5", "/model.ckpt-5.index"])
def test_a_checkpoint_of_mesh_tensorflow_is_named(tmp_path, capsys, given):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-5"\n')
    for ending in ("index", "meta", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt-5.{ending}").write_bytes(b"\0")
    path, expected = f"{tmp_path}{given}", "convert it with python -m t5x.scripts.convert_tf_check"
    expect_error(path, f"model {path}: a TensorFlow checkpoint, as Mesh TensorFlow", expected)
    for command in (["model", "show", path], ["extract-variable", path]):
        assert main(command) == 2
        assert expected in capsys.readouterr().err
    with pytest.raises(InputError, match=expected):
        embeddings.checkpoint_load(path).rows(np.array([0]))


def test_names_that_are_not_there_get_the_nearest(unpack):
    model = formats.open_model(unpack("t5x_orbax"))
    for read in (model.read, lambda name: model.rows(name, np.array([0]))):
        with pytest.raises(InputError, match="did you mean 'token_embedder/embedding'"):
            read("token_embeder/embedding")


def test_rows_are_of_floating_tables(write_t5x, tmp_path):
    arrays = {"counts": np.ones((4, 2), np.int32), "scale": np.ones(4, np.float32)}
    model = formats.open_model(write_t5x(tmp_path, arrays))
    assert model.read("counts").dtype == np.int32
    for name, found in (("counts", "int32 (4, 2)"), ("scale", "float32 (4,)")):
        with pytest.raises(InputError, match=re.escape(f"{name!r} is {found}, expected floating")):
            model.rows(name, np.array([0]))


def test_a_prompt_is_a_finite_floating_matrix(write_t5x, tmp_path):
    bad = {
        "int8, expected floating": np.ones((2, 4), np.int8),
        "shape (2, 1, 4), expected (P, H)": np.ones((2, 1, 4), np.float32),
        "is not finite": np.full((2, 4), 1e300),
    }
    for number, (message, array) in enumerate(bad.items()):
        path = tmp_path / str(number)
        path.mkdir()
        write_t5x(path, {PROMPT: array}, step=number)
        with pytest.raises(InputError, match=re.escape(message)):
            formats.read_prompt(path)


def test_a_directory_named_for_another_step_is_refused(unpack):
    path = unpack("t5x_orbax")
    (path / "checkpoint_7").rename(path / "checkpoint_8")
    expect_error(path, "saved at step 7", "name says 8")
    (path / "checkpoint_8").rename(path / "model")
    assert formats.open_model(path / "model").step == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1, expected one of"),
        ({"optimizer": {"state": {"step": 0}, "target": {}}}, "no parameters"),
        ({"optimizer": {"state": {"step": 0}, "target": {"a": "b"}}}, "a: neither an array nor"),
        ({"optimizer": {"state": {"step": -1}, "target": {}}}, "the step isn't a number"),
        ({"optimizer": {"state": {"step": 0}, "target": {"a": {"driver": "n5"}}}}, "a: "),
    ],
)
def test_what_t5x_does_not_write_is_refused(tmp_path, change, message):
    index = {"version": 3, "optimizer": {"state": {"step": 0}, "target": {}}}
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(index | change))
    expect_error(tmp_path, "not a readable index of a T5X checkpoint", message)


def test_other_places_are_left_to_other_formats(tmp_path):
    (tmp_path / "checkpoint").write_text("my notes")
    (tmp_path / "prompt.npy").touch()
    for place in (tmp_path, tmp_path / "prompt.npy", tmp_path / "nothing", "s3://bucket/model"):
        for form in (T5X, T5XOrbax):
            assert not form().recognizes_model(str(place))
