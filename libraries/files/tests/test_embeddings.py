"""Embedding tables are read by rows, and files that can't be used are refused by name."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import embeddings, formats
from prompt_tuning_files.embeddings import (
    EmbeddingTable,
    as_table,
    checkpoint_load,
    np_load,
    safetensors_load,
)

NAME = "token_embedder/embedding"


def numbers(shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def shape_of(table):
    """Opens the file of a table."""
    return table.shape


def npy(tmp_path, array):
    path = tmp_path / "table.npy"
    np.save(path, array)
    return path


def raw_safetensors(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class TestRows:
    @settings(max_examples=60, deadline=None)
    @given(
        ids=st.lists(st.integers(0, 39), max_size=60),
        dtype=st.sampled_from(["float16", "float32", "float64", ">f4", "bfloat16"]),
        block=st.sampled_from([1, 64, 1 << 20]),
    )
    def test_are_those_of_the_table(self, tmp_path_factory, ids, dtype, block):
        folder = tmp_path_factory.mktemp("tables")
        if dtype == "bfloat16":
            array = numbers((40, 8)).astype(jnp.bfloat16)
            safetensors.numpy.save_file(
                {"a/first": numbers((3,)), NAME: array}, folder / "model.safetensors"
            )
            table = safetensors_load(folder / "model.safetensors")
        else:
            array = numbers((40, 8), dtype)
            table = np_load(npy(folder, array))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embeddings, "_BLOCK_BYTES", block)
            rows = table.rows(np.array(ids, np.int32))
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, array[np.array(ids, int)].astype(np.float32))
        assert table.shape == (40, 8)
        assert table.dtype == array.dtype
        assert isinstance(table, EmbeddingTable)

    def test_take_their_own_memory_and_a_block(self, tmp_path):
        table = np_load(npy(tmp_path, numbers((20_000, 256))))  # 20 MB
        assert table.shape == (20_000, 256)
        tracemalloc.start()
        table.rows(np.arange(0, 20_000, 200))
        _, scattered = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        table.rows(np.arange(20_000))
        _, whole = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert scattered < 1 << 20
        assert whole < 20_000 * 256 * 4 + (6 << 20)

    @pytest.mark.parametrize("ids", [[0, 5], [-1], [7]])
    @pytest.mark.parametrize("kind", ["file", "array"])
    def test_outside_the_table_are_named(self, tmp_path, kind, ids):
        array = numbers((5, 2))
        table = np_load(npy(tmp_path, array)) if kind == "file" else as_table(array)
        with pytest.raises(InputError, match=rf"row {ids[-1]}.* 5 rows"):
            table.rows(np.array(ids))

    @pytest.mark.parametrize("ids", [np.array([[0]]), np.array([0.0]), np.array(["a"])])
    def test_are_asked_for_by_integers(self, ids):
        with pytest.raises(InputError, match=r"expected integers \[n\]"):
            as_table(numbers((5, 2))).rows(ids)

    @pytest.mark.parametrize("kind", ["file", "array"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_that_are_not_finite_are_named(self, tmp_path, kind, value):
        array = numbers((5, 2), "float64")
        array[3, 1] = value
        table = np_load(npy(tmp_path, array)) if kind == "file" else as_table(array)
        assert table.rows(np.array([0, 4])).shape == (2, 2)
        with pytest.raises(InputError, match="row 3 isn't finite"):
            table.rows(np.array([1, 2, 3]))

    def test_of_a_file_cut_while_open(self, tmp_path):
        path = npy(tmp_path, numbers((5, 2)))
        table = np_load(path)
        assert table.shape == (5, 2)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(InputError, match="8 bytes more"):
            table.rows(np.array([4]))


@pytest.mark.parametrize("make", [np_load, safetensors_load], ids=lambda make: make.__name__)
def test_single_files_are_local(make):
    with pytest.raises(InputError, match="not a local path"):
        make("gs://bucket/table").rows(np.array([0]))


@pytest.mark.parametrize(
    "make", [np_load, safetensors_load, checkpoint_load], ids=lambda make: make.__name__
)
class TestEveryFileTable:
    def test_opens_nothing_when_made(self, make, tmp_path):
        table = make(tmp_path / "missing")
        assert as_table(table) is table
        with pytest.raises(InputError, match=r"missing.*[Nn]o such file"):
            shape_of(table)

    @pytest.mark.parametrize("path", ["", None, 3])
    def test_needs_a_path(self, make, path):
        with pytest.raises(InputError, match="expected a file's path"):
            make(path)

    def test_empty_file(self, make, tmp_path):
        (tmp_path / "empty").touch()
        with pytest.raises(InputError, match="empty"):
            shape_of(make(tmp_path / "empty"))


class TestNpLoad:
    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.ones((4, 2), np.int64), "dtype int64, expected float16"),
            (np.ones((4, 2), np.complex64), "dtype complex64"),
            (np.ones((4, 2)).astype(jnp.bfloat16), "a bfloat16 array, maybe"),
            (np.ones((4, 2, 1), np.float32), r"shape \(4, 2, 1\), expected \[V, H\]"),
            (np.float32(1), r"shape \(\), expected \[V, H\]"),
            (np.ones((0, 2), np.float32), r"shape \(0, 2\)"),
            (np.asfortranarray(numbers((4, 2))), "Fortran order"),
        ],
    )
    def test_arrays_that_are_no_table(self, tmp_path, array, message):
        with pytest.raises(InputError, match=message):
            shape_of(np_load(npy(tmp_path, array)))

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_each_version_of_the_header(self, tmp_path, version):
        array = numbers((4, 2))
        with (tmp_path / "t.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version)
        np.testing.assert_array_equal(np_load(tmp_path / "t.npy").rows(np.arange(4)), array)
        np.testing.assert_array_equal(formats.read_prompt(tmp_path / "t.npy").array, array)

    @pytest.mark.filterwarnings("ignore:Stored array in format 3.0")  # NumPy's, of these names.
    def test_headers_that_are_no_tables(self, tmp_path):
        np.save(tmp_path / "t.npy", np.zeros((4, 2), [("größe", "f4"), ("…", "f4")]))
        with pytest.raises(InputError, match=r"t.npy'\): has dtype \[.+, expected float16"):
            shape_of(np_load(tmp_path / "t.npy"))
        content = (tmp_path / "t.npy").read_bytes()
        (tmp_path / "t.npy").write_bytes(content[:6] + b"\4" + content[7:])
        with pytest.raises(InputError, match=r"version \(4, 0\), expected .+ or \(3, 0\)"):
            shape_of(np_load(tmp_path / "t.npy"))

    def test_pickles_are_never_loaded(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (pytest.fail, ("unpickled",))

        object_array = io.BytesIO()
        np.save(object_array, np.array([Trap()], dtype=object), allow_pickle=True)
        for content in (object_array.getvalue(), pickle.dumps(Trap())):
            (tmp_path / "t.npy").write_bytes(content)
            with pytest.raises(InputError, match="pickled Python objects, which are never loaded"):
                np_load(tmp_path / "t.npy").rows(np.array([0]))

    def test_archives_are_told_apart(self, tmp_path):
        np.savez(tmp_path / "t.npz", a=numbers((4, 2)))
        with pytest.raises(InputError, match=r"is a \.npz archive"):
            shape_of(np_load(tmp_path / "t.npz"))

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_damage_to_the_header_or_the_length_is_one_line(self, tmp_path_factory, data):
        path = npy(tmp_path_factory.mktemp("damaged"), numbers((4, 2)))
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans(), "cut"):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            content[data.draw(st.integers(0, 9))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            shape_of(np_load(path))
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)

    def test_bytes_after_the_array(self, tmp_path):
        path = npy(tmp_path, numbers((4, 2)))
        path.write_bytes(path.read_bytes() + b"0")
        with pytest.raises(InputError, match="longer than its header says"):
            shape_of(np_load(path))


class TestSafetensors:
    def test_unknown_variable_names_the_nearest(self, tmp_path):
        path = tmp_path / "m.safetensors"
        safetensors.numpy.save_file({NAME: numbers((4, 2))}, path)
        with pytest.raises(InputError, match=f"did you mean '{NAME}'"):
            shape_of(safetensors_load(path, "token_embeder/embedding"))

    @pytest.mark.parametrize(
        ("header", "data", "message"),
        [
            (b"not json", b"", "not a readable"),
            (b"[]", b"", "isn't an object"),
            (b"\xff\xfe{}", b"", "not a readable"),
            (b"[" * 100_000, b"", "not a readable"),
            (b'{"a": {}, "a": {}}', b"", "occurs twice"),
            ({NAME: []}, b"", "isn't described by an object"),
            ({NAME: {"dtype": "F32"}}, b"", "lacks a valid"),
            ({NAME: entry([2, -2], 0, 16)}, bytes(16), "lacks a valid"),
            ({NAME: entry([2, True], 0, 16)}, bytes(16), "lacks a valid"),
            ({NAME: entry([2, 2], 16, 0)}, bytes(16), "data_offsets"),
            ({NAME: entry([2, 2], 0, 12)}, bytes(12), "has 12 bytes, expected 16"),
            ({NAME: entry([2, 2], 4, 20)}, bytes(20), r"begins at byte \d+, expected \d+"),
            ({NAME: entry([2, 2], 0, 16)}, bytes(15), "bytes, expected"),
            ({NAME: entry([2, 2], 0, 16)}, bytes(17), "bytes, expected"),
            ({NAME: entry([2, 2], 0, 16), "b": entry([1], 12, 16)}, bytes(16), "begins at byte"),
            ({NAME: entry([4], 0, 16)}, bytes(16), r"shape \(4,\), expected \[V, H\]"),
            ({NAME: entry([2, 2], 0, 16, "I32")}, bytes(16), "dtype I32, expected one of float16"),
            ({"__metadata__": {"a": "b"}}, b"", "no variable"),
        ],
    )
    def test_damaged(self, tmp_path, header, data, message):
        path = raw_safetensors(tmp_path / "m.safetensors", header, data)
        with pytest.raises(InputError, match=message) as error:
            safetensors_load(path).rows(np.array([0]))
        assert "\n" not in str(error.value)

    def test_header_longer_than_the_file(self, tmp_path):
        (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
        with pytest.raises(InputError, match="a header of"):
            shape_of(safetensors_load(tmp_path / "m.safetensors"))

    def test_tensors_of_dtypes_to_come(self, tmp_path):
        header = {"new": entry([3], 0, 2, "F5"), NAME: entry([2, 1], 2, 10)}
        path = raw_safetensors(tmp_path / "m.safetensors", header, bytes(10))
        assert safetensors_load(path).rows(np.array([1])).tolist() == [[0.0]]

    @pytest.mark.parametrize("variable", ["", None, 3])
    def test_variable_of_another_type(self, variable):
        with pytest.raises(InputError, match="expected a name such as"):
            safetensors_load("m.safetensors", variable)


class TestCheckpointLoad:
    @pytest.mark.parametrize("variable", [NAME, f"target/{NAME}"])
    def test_file_and_folder(self, tmp_path, variable):
        array = numbers((4, 2))
        path = tmp_path / "model.safetensors"
        safetensors.numpy.save_file({NAME: array}, path)
        for place in (path, tmp_path):
            table = checkpoint_load(place, variable)
            np.testing.assert_array_equal(table.rows(np.array([2])), array[[2]])

    def test_other_folder(self, tmp_path):
        with pytest.raises(InputError, match="no installed format plugin recognizes it"):
            shape_of(checkpoint_load(tmp_path))


class TestAsTable:
    @pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_arrays(self, make, dtype):
        array = make(numbers((4, 2))).astype(jnp.dtype(dtype))
        table = as_table(array)
        assert isinstance(table, EmbeddingTable)
        expected = np.asarray(array).astype(np.float32)[[3, 0, 3]]
        np.testing.assert_array_equal(table.rows(np.array([3, 0, 3])), expected)

        @jax.jit
        def traced(x):  # Rows are concrete within a trace, too.
            return x + table.rows(np.array([3, 0, 3]))

        np.testing.assert_array_equal(traced(0.0), expected)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            ("table.npy", "'table.npy'; expected an array"),
            (None, "None"),
            ([[1.0]], "list"),
            (np.ones(3), r"shape \(3,\)"),
            (np.ones((3, 2), int), "dtype int64"),
        ],
    )
    def test_others(self, x, message):
        with pytest.raises(InputError, match=message):
            as_table(x)

    def test_traced_arrays(self):
        with pytest.raises(InputError, match="outside of jit"):
            jax.jit(lambda x: as_table(x).rows(np.array([0])))(jnp.ones((3, 2)))
