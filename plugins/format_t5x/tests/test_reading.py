"""Checkpoints of each form give the right variables, rows, steps and prompts."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompt_tuning_core.commands.main import main
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import embeddings, formats
from prompt_tuning_init_vocab import init_vocab

EMBEDDING = "token_embedder/embedding"
PROMPT = "encoder/prompt/prompt/prompt"


@pytest.mark.parametrize(
    ("name", "dtype", "step", "prompted"),
    [
        ("t5x_checkpoint_prompt", "float32", 0, True),
        ("t5x_checkpoint_bf16", "bfloat16", 0, False),
        ("t5x_checkpoint_msgpack_only", "float32", 0, False),
        ("t5x_checkpoint_2021", "float32", 0, False),
        ("t5x_checkpoint_2021_bf16", "bfloat16", 0, False),
        ("t5x_orbax", "float32", 7, True),
    ],
)
def test_a_model_reads_as_it_was_saved(unpack, parameters, prompt, name, dtype, step, prompted):
    model = formats.open_model(unpack(name))
    expected = parameters | ({PROMPT: prompt} if prompted else {})
    assert model.step == step
    assert dict(model.variables) == {
        name: formats.Variable(array.shape, dtype) for name, array in expected.items()
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(model.read(name), array.astype(dtype), strict=True)
    ids = np.array([3, 60, 3, 0])
    # The second one is cut into chunks of columns in the checkpoints of 2021.
    for table, wanted in ((EMBEDDING, ids), ("decoder/logits_dense/kernel", ids % 32)):
        rows = expected[table].astype(dtype).astype(np.float32)[wanted]
        np.testing.assert_array_equal(model.rows(table, wanted), rows, strict=True)


@pytest.mark.parametrize("name", ["t5x_checkpoint_2021", "t5x_checkpoint_2021_bf16"])
def test_checkpoints_of_2021_serve_the_commands_and_initializers(
    unpack, parameters, tmp_path, capsys, name
):
    path, out = unpack(name), tmp_path / "out.npy"
    dtype = "bfloat16" if name.endswith("bf16") else "float32"
    assert main(["model", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^dtype +{dtype}$", shown, re.MULTILINE)
    assert re.search(r"^vocabulary +64 rows$", shown, re.MULTILINE)
    assert main(["extract-variable", str(path), "decoder/logits_dense/kernel", str(out)]) == 0
    expected = parameters["decoder/logits_dense/kernel"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(np.load(out), expected, strict=True)
    drawn = init_vocab(embeddings.checkpoint_load(path), 7)(jax.random.key(0), (7, 32))
    table = parameters[EMBEDDING].astype(dtype).astype(np.float32)[:7]
    assert sorted(map(tuple, np.asarray(drawn))) == sorted(map(tuple, table))


def test_other_indexes_that_t5x_reads(unpack, parameters):
    """An index within `state`, of version 2, with other collections, dtypes stated twice."""
    import msgpack

    path = unpack("t5x_checkpoint_2021") / "checkpoint_0"
    index = msgpack.unpackb((path / "checkpoint").read_bytes(), strict_map_key=False)
    index["version"] = 2
    index["optimizer"]["flax_mutables"] = {"counters": {"calls": 3}}
    index["optimizer"]["target"]["token_embedder"]["embedding"]["dtype"] = "float32"
    (path / "state").mkdir()
    for file in list(path.iterdir()):
        if file.name != "state":
            file.rename(path / "state" / file.name)
    (path / "state" / "checkpoint").write_bytes(msgpack.packb(index))
    for place in (path, path / "state", path.parent):
        model = formats.open_model(place)
        assert model.variables.keys() == parameters.keys()
        np.testing.assert_array_equal(model.read(EMBEDDING), parameters[EMBEDDING], strict=True)


@pytest.mark.parametrize("name", ["t5x_checkpoint_prompt", "t5x_orbax"])
def test_a_prompted_checkpoint_reads_as_a_prompt(unpack, prompt, name):
    (path,) = unpack(name).glob("checkpoint_*")
    found = formats.read_prompt(path, (5, 32))
    np.testing.assert_array_equal(found.array, prompt, strict=True)
    assert found.provenance == {"step": formats.open_model(path).step}
    with pytest.raises(InputError, match=re.escape("has shape (5, 32), expected (5, 64)")):
        formats.read_prompt(path, (5, 64))


def test_a_run_of_the_reference_reads_as_its_newest_prompt(unpack, prompt, monkeypatch):
    run = unpack("t5x_checkpoint_prompt")
    folder = run / "numpy_checkpoints"
    first, file = folder / "checkpoint_0", "encoder.prompt.prompt.prompt"
    newest = folder / "checkpoint_10"
    for step in ("checkpoint_9", "checkpoint_10", "checkpoint_11.tmp"):
        (folder / step).mkdir()
        with (folder / step / file).open("wb") as stream:
            np.save(stream, prompt + 1)
    for place in (run, folder, newest, newest / file):
        np.testing.assert_array_equal(formats.read_prompt(place, (5, 32)).array, prompt + 1)
    np.testing.assert_array_equal(formats.read_prompt(first).array, prompt)
    # The run's directory is also one of T5X checkpoints, each of which can be named.
    np.testing.assert_array_equal(formats.read_prompt(run / "checkpoint_0").array, prompt)
    assert formats.locate_prompt(run).form == "npy"
    assert formats.locate_model(run).form == "t5x_legacy"
    monkeypatch.chdir(newest)
    np.testing.assert_array_equal(formats.read_prompt(".").array, prompt + 1)
    (newest / "other").write_bytes((newest / file).read_bytes())
    with pytest.raises(InputError, match=f"expected one file that numpy wrote, found {file}, oth"):
        formats.read_prompt(run)
    for left in newest.iterdir():
        left.unlink()
    with pytest.raises(InputError, match=r"checkpoint_10: expected one file .* found none"):
        formats.read_prompt(folder)


def test_a_checkpoint_without_a_prompt_is_no_prompt(unpack):
    with pytest.raises(InputError, match="a model without a prompt: it has no 'encoder/prompt/"):
        formats.read_prompt(unpack("t5x_checkpoint_bf16"))


def test_the_newest_of_several_checkpoints_is_read(unpack, write_t5x, tmp_path):
    path = unpack("t5x_orbax")
    for step in (3, 10):
        directory = path / f"checkpoint_{step}"
        directory.mkdir()
        write_t5x(directory, {EMBEDDING: np.full((2, 2), step, np.float32)}, step=step)
    (path / "checkpoint_11.tmp").mkdir()
    assert formats.open_model(path).read(EMBEDDING)[0, 0] == 10
    # An item within a checkpoint, and the file that is T5X's index, may be named as well.
    assert formats.open_model(path / "checkpoint_7" / "state").step == 7
    assert formats.open_model(path / "checkpoint_3" / "checkpoint").step == 3


def test_scanned_layers_read_as_unscanned_ones(write_t5x, parameters, tmp_path):
    scanned, expected = {}, {}
    for name, array in parameters.items():
        side, *rest = name.split("/")
        if rest[0] == "relpos_bias":
            # Scanned layers have one each.
            for layer in (0, 1):
                expected[f"{side}/layers_{layer}/{'/'.join(rest)}"] = array + layer
            scanned[f"{side}/{side}/{'/'.join(rest)}"] = np.stack([array, array + 1], axis=1)
            continue
        expected[name] = array
        if not rest[0].startswith("layers_"):
            scanned[name] = array
        elif rest[0] == "layers_0":
            other = parameters["/".join((side, "layers_1", *rest[1:]))]
            scanned["/".join((side, side, *rest[1:]))] = np.stack([array, other], axis=1)
    chunks = {
        "encoder/encoder/mlp/wo/kernel": (16, 1, 32),
        "decoder/decoder/mlp/wo/kernel": (64, 2, 8),
    }
    model = formats.open_model(write_t5x(tmp_path, scanned, chunks))
    assert model.variables.keys() == expected.keys()
    for name, array in expected.items():
        assert model.variables[name] == formats.Variable(array.shape, "float32")
        np.testing.assert_array_equal(model.read(name), array, strict=True)
    name = "decoder/layers_1/mlp/wo/kernel"
    np.testing.assert_array_equal(model.rows(name, np.array([9, 2])), expected[name][[9, 2]])


def test_scanned_layers_of_different_numbers_are_refused(write_t5x, tmp_path):
    arrays = {
        "encoder/encoder/a/scale": np.ones((4, 2)),
        "encoder/encoder/b/scale": np.ones((4, 3)),
    }
    with pytest.raises(InputError, match="differ in the size of their second axis"):
        formats.open_model(write_t5x(tmp_path, arrays))


# Chunks of 8 rows and 3 columns of a table of 37 rows and 7 columns.
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, 36), max_size=12))
def test_rows_need_the_chunks_that_hold_them_and_no_others(write_t5x, tmp_path_factory, ids):
    table = np.arange(37 * 7, dtype=np.float32).reshape(37, 7)
    path = tmp_path_factory.mktemp("checkpoint")
    write_t5x(path, {EMBEDDING: table}, {EMBEDDING: (8, 3)})
    needed = {f"{id_ // 8}.{column}" for id_ in ids for column in range(3)}
    chunks = {
        chunk.name: chunk
        for chunk in (path / f"target.{EMBEDDING.replace('/', '.')}").glob("[0-9]*")
    }
    assert len(chunks) == 15
    for name in chunks.keys() - needed:
        chunks[name].unlink()
    model = formats.open_model(path)
    np.testing.assert_array_equal(model.rows(EMBEDDING, np.array(ids, np.int64)), table[ids])
    if ids:
        chunks[f"{ids[0] // 8}.1"].unlink()
        with pytest.raises(InputError, match=f"chunk {{{ids[0] // 8}, 1}}.* is missing"):
            model.rows(EMBEDDING, np.array(ids))


def test_rows_are_read_one_chunk_at_a_time(write_t5x, tmp_path, monkeypatch):
    import tensorstore as ts

    table = np.arange(40 * 6, dtype=np.float32).reshape(40, 6)
    model = formats.open_model(write_t5x(tmp_path, {EMBEDDING: table}, {EMBEDDING: (10, 2)}))
    read, asked = ts.TensorStore.read, []

    def note(opened, *args, **kwargs):
        asked.append(opened.domain.shape)
        result = read(opened, *args, **kwargs)
        result.result()
        return result

    monkeypatch.setattr(ts.TensorStore, "read", note)
    ids = np.array([39, 1, 0, 38, 1])
    np.testing.assert_array_equal(model.rows(EMBEDDING, ids), table[ids])
    assert asked == [(2, 2)] * 6


def test_a_checkpoint_that_was_written_to_a_bucket_is_read_where_it_is(write_t5x, tmp_path):
    import msgpack

    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    file = write_t5x(tmp_path, {EMBEDDING: table}) / "checkpoint"
    index = msgpack.unpackb(file.read_bytes())
    spec = index["optimizer"]["target"]["token_embedder"]["embedding"]
    # As T5X has it for buckets; tensorstore used to have the path outside of the kvstore.
    spec["path"] = spec["kvstore"]["path"].rstrip("/")
    spec["kvstore"] = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
    file.write_bytes(msgpack.packb(index))
    np.testing.assert_array_equal(formats.open_model(tmp_path).read(EMBEDDING), table)
    spec["path"] = "target.other"
    file.write_bytes(msgpack.packb(index))
    with pytest.raises(InputError, match=r"its array is 'target\.other', expected"):
        formats.open_model(tmp_path)


ORBAX = """
import sys
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

table = jnp.arange(12.0).reshape(6, 2)
model = {"token_embedder": {"embedding": table}, "n.m": np.ones(3, "float16")}
trees = {
    "params": {"params": model, "step": 5},
    "bare": model,
    "else": {"optimizer": {"m": jnp.ones(2)}},
}
for ocdbt in (True, False):
    for zarr3 in (True, False):
        for name, tree in trees.items():
            checkpointer = ocp.PyTreeCheckpointer(use_ocdbt=ocdbt, use_zarr3=zarr3)
            checkpointer.save(f"{sys.argv[1]}/{name}-{ocdbt}-{zarr3}", tree)
with ocp.CheckpointManager(f"{sys.argv[1]}/manager") as manager:
    for step in (9, 10):
        manager.save(step, args=ocp.args.StandardSave({"params": model}))
"""


def test_trees_that_orbax_saved_are_read(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", "-c", ORBAX, tmp_path], check=True)
    saved = [path for path in tmp_path.iterdir() if not path.name.startswith("else")]
    assert len(saved) == 9
    for path in saved:
        model = formats.open_model(path)
        assert dict(model.variables) == {
            EMBEDDING: formats.Variable((6, 2), "float32"),
            "n.m": formats.Variable((3,), "float16"),
        }
        assert model.step == (10 if path.name == "manager" else 0)
        assert model.read("n.m").tolist() == [1, 1, 1]
        assert model.rows(EMBEDDING, np.array([5, 0])).tolist() == [[10, 11], [0, 1]]
    for path in tmp_path.glob("else*"):
        with pytest.raises(InputError, match="its tree begins with optimizer, expected target or"):
            formats.open_model(path)


def test_arrays_that_flax_splits_are_joined(tmp_path):
    """Flax writes an array of over 1 GiB in parts; the parts here are smaller."""
    import msgpack

    def packed(array):
        data = [list(array.shape), array.dtype.name, array.tobytes()]
        return msgpack.ExtType(1, msgpack.packb(data))

    table = np.arange(12).astype(ml_dtypes.bfloat16)
    parts = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 6, "1": 2},
        "chunks": {"0": packed(table[:7]), "1": packed(table[7:])},
    }
    state = {"step": msgpack.ExtType(3, msgpack.packb([[], "int64", (12).to_bytes(8, "little")]))}
    index = {"version": 3, "optimizer": {"state": state, "target": {"embedding": parts}}}
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(index))
    model = formats.open_model(tmp_path)
    assert model.step == 12
    np.testing.assert_array_equal(model.read("embedding"), table.reshape(6, 2), strict=True)
    del parts["chunks"]["1"]
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(index))
    with pytest.raises(InputError, match="embedding: its chunks don't make up its shape"):
        formats.open_model(tmp_path)


def test_recognizing_imports_neither_tensorstore_nor_jax(unpack):
    code = (
        "import json, sys\n"
        "from prompt_tuning_format_t5x import T5X, T5XOrbax\n"
        "found = [form().recognizes_model(sys.argv[1]) for form in (T5X, T5XOrbax)]\n"
        "print(json.dumps([found, sorted({'tensorstore', 'jax', 'msgpack'} & set(sys.modules))]))"
    )
    for name, expected in (("t5x_checkpoint_bf16", [True, False]), ("t5x_orbax", [False, True])):
        output = subprocess.check_output([sys.executable, "-c", code, unpack(name)])
        assert json.loads(output) == [expected, []]
