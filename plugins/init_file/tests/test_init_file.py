"""init_file: the files it reads, by their content, and those it refuses."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_tuning_files import prompt_files
from prompt_tuning_init_file import init_file
from prompt_tuning_testing import check_initializer

PROMPT = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
KEY = jax.random.key(0)


def write(path, array, **options):
    with path.open("wb") as file:  # np.save appends .npy to a name.
        np.save(file, array, **options)
    return path


@pytest.mark.slow
def test_keeps_the_contract(tmp_path):
    check_initializer(
        init_file,
        {"path": write(tmp_path / "p.npy", PROMPT)},
        shapes=[(4, 6)],
        refuses={(3, 6): (3, 4), (5, 6): (5, 4), (4, 7): (7, 6), (4, 1): (1, 6)},
    ).raise_if_failed()


@pytest.mark.parametrize("name", ["p.npy", "encoder.prompt.prompt.prompt", "p.npz"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, name, dtype, order):
    array = np.asarray(PROMPT, dtype, order=order)
    for path in (write(tmp_path / name, array), str(tmp_path / name)):
        prompt = init_file(path)(KEY, [4, 6])
        assert prompt.dtype == jnp.float32
        np.testing.assert_array_equal(prompt, array.astype(np.float32))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path, save, order):
    array = np.asarray(PROMPT, np.float64, order=order)
    save(tmp_path / "two.npz", prompt=array, other=np.ones((2, 2), object))
    save(tmp_path / "one.npz", array)
    for initializer in (
        init_file(tmp_path / "two.npz", key="prompt"),
        init_file(tmp_path / "one.npz"),
    ):
        prompt = initializer(KEY, (4, 6))
        assert prompt.dtype == jnp.float32
        np.testing.assert_array_equal(prompt, PROMPT)


def test_prompt_file_with_provenance(tmp_path):
    prompt_files.save(tmp_path / "p.npy", PROMPT, {"task": "a"})
    np.testing.assert_array_equal(init_file(tmp_path / "p.npy")(KEY, (4, 6)), PROMPT)
    write(tmp_path / "p.npy", PROMPT + 1)
    with pytest.raises(ValueError, match="checksum"):
        init_file(tmp_path / "p.npy")(KEY, (4, 6))


def test_opens_nothing_when_made(tmp_path):
    initializer = init_file(tmp_path / "p.npy")
    write(tmp_path / "p.npy", PROMPT)
    assert initializer(KEY, (4, 6)).shape == (4, 6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 6), np.int32), "dtype int32, expected float16"),
        (np.ones((4, 6), bool), "dtype bool"),
        (np.ones(24, np.float32), r"shape \(24,\), expected \(4, 6\)"),
        (np.ones((6, 4), np.float32), r"shape \(6, 4\), expected \(4, 6\)"),
        (np.ones((1, 4, 6), np.float32), r"shape \(1, 4, 6\), expected \(4, 6\)"),
        (np.full((4, 6), np.nan), "aren't finite"),
        (np.full((4, 6), 1e300), "beyond the range of float32"),
    ],
)
def test_refuses_other_arrays(tmp_path, array, message):
    np.savez(tmp_path / "p.npz", array)
    for path in (write(tmp_path / "p.npy", array), tmp_path / "p.npz"):
        with pytest.raises(ValueError, match=message):
            init_file(path)(KEY, (4, 6))


def test_never_unpickles(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "p.npz", trap, allow_pickle=True)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(Trap()))
    write(tmp_path / "p.npy", trap, allow_pickle=True)
    for name in ("p.npz", "p.pkl", "p.npy"):
        with pytest.raises(ValueError, match="pickled Python objects, which are never loaded"):
            init_file(tmp_path / name)(KEY, (4, 6))


def test_provenance_tells_a_prompt_of_another_model(tmp_path):
    ours, theirs = tmp_path / "ours.model", tmp_path / "theirs.model"
    ours.write_bytes(b"ours")
    theirs.write_bytes(b"theirs")
    facts = {
        "model": {"path": "their_model"},
        "vocabulary": {"path": "theirs.model", "sha256": hashlib.sha256(b"theirs").hexdigest()},
    }
    path = tmp_path / "p.npy"
    prompt_files.save(path, PROMPT, facts)
    with pytest.raises(ValueError, match=r"by its provenance, this one is of their_model"):
        init_file(path)(KEY, (4, 8))

    def with_vocabulary(file):
        return init_file(path, vocab=SimpleNamespace(sentencepiece_model_file=file))(KEY, (4, 6))

    with pytest.raises(ValueError, match=r"with the vocabulary theirs\.model .*ours\.model"):
        with_vocabulary(ours)
    np.testing.assert_array_equal(with_vocabulary(theirs), PROMPT)


def test_refuses_a_large_array_of_another_shape_unread(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    )
    path = tmp_path / "p.npy"
    path.write_bytes(header.getvalue())
    with path.open("r+b") as file:
        file.truncate(len(header.getvalue()) + (1 << 42))  # A sparse file.
    with pytest.raises(ValueError, match=r"shape \(1048576, 1048576\), expected \(4, 6\)"):
        init_file(path)(KEY, (4, 6))


class TestKeys:
    def test_unknown(self, tmp_path):
        np.savez(tmp_path / "p.npz", prompt=PROMPT)
        with pytest.raises(ValueError, match="no array 'promt'; did you mean 'prompt'"):
            init_file(tmp_path / "p.npz", key="promt")(KEY, (4, 6))

    def test_missing(self, tmp_path):
        np.savez(tmp_path / "p.npz", a=PROMPT, b=PROMPT)
        with pytest.raises(ValueError, match="has 2 arrays; set key to one of a, b"):
            init_file(tmp_path / "p.npz")(KEY, (4, 6))

    def test_of_a_file_without(self, tmp_path):
        with pytest.raises(ValueError, match=r"key is 'a', but the file is no \.npz"):
            init_file(write(tmp_path / "p.npy", PROMPT), key="a")(KEY, (4, 6))

    def test_of_another_type(self):
        with pytest.raises(ValueError, match="key is 3, expected the name"):
            init_file("p.npz", key=3)

    def test_that_is_not_utf_8(self, tmp_path):
        np.savez(tmp_path / "p.npz", abc=PROMPT)
        content = bytearray((tmp_path / "p.npz").read_bytes().replace(b"abc.npy", b"ab\xff.npy"))
        content[content.find(b"PK\1\2") + 9] |= 8  # The flag that says that names are UTF-8.
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"p.npz: a damaged .npz archive .*decode byte 0xff"):
            init_file(tmp_path / "p.npz")(KEY, (4, 6))

    def test_empty_archive(self, tmp_path):
        zipfile.ZipFile(tmp_path / "p.npz", "w").close()
        with pytest.raises(ValueError, match="has 0 arrays"):
            init_file(tmp_path / "p.npz")(KEY, (4, 6))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["npy", "npz"]))
def test_cut_files_are_refused_in_one_line(tmp_path_factory, data, kind):
    path = tmp_path_factory.mktemp("cut") / f"p.{kind}"
    if kind == "npy":
        write(path, PROMPT)
    else:
        np.savez_compressed(path, prompt=PROMPT)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match="prompt ") as error:
        init_file(path)(KEY, (4, 6))
    assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_archives_are_refused_or_read_right(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "p.npz"
    np.savez_compressed(path, prompt=PROMPT)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    message = None
    try:  # Not every byte matters: the dates of an archive's members don't.
        prompt = init_file(path)(KEY, (4, 6))
    except ValueError as error:
        message = str(error)
    if message is None:
        np.testing.assert_array_equal(prompt, PROMPT)
    else:
        assert str(path) in message
        assert "\n" not in message


@pytest.mark.parametrize("path", ["", None, 3])
def test_refuses_what_is_no_path(path):
    with pytest.raises(ValueError, match="set PROMPT_FILE"):
        init_file(path)


def test_training_directory_gives_its_newest_prompt(tmp_path):
    for step in (9, 20, 100):
        prompt_files.save(tmp_path / f"prompt_{step}.npy", PROMPT * step, {})
    np.testing.assert_array_equal(init_file(tmp_path)(KEY, (4, 6)), PROMPT * 100)


def test_missing_file_and_empty_directory(tmp_path):
    with pytest.raises(ValueError, match=r"missing\.npy: there is no such file"):
        init_file(tmp_path / "missing.npy")(KEY, (4, 6))
    with pytest.raises(ValueError, match="no installed format plugin recognizes it"):
        init_file(tmp_path)(KEY, (4, 6))
