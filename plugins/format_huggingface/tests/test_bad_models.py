"""Models that are damaged, mixed up or of another kind give an error of one line."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from prompt_tuning_core.errors import InputError
from prompt_tuning_files import formats

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0a' * 32}\nsize 307867048\n"


def shard(folder):
    """Splits the model of a folder in two files with an index, and returns the index."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    half = len(names) // 2
    weight_map = {}
    for file, part in zip(SHARDS, (names[:half], names[half:]), strict=True):
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    write_json(folder / INDEX, index)
    return index


def write_json(path, value):
    path.write_text(json.dumps(value))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if value is ...:
            del config[key]
        else:
            config[key] = value
    write_json(folder / "config.json", config)


def change_tensors(folder, **changes):
    """Changes tensors, "_" in a keyword standing for "." of a name; None removes one."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    for name, value in changes.items():
        tensors[name] = value
    kept = {name: value for name, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(kept, folder / "model.safetensors")


def assert_refused(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        formats.open_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def arrays(folder):
    model = formats.open_model(folder)
    return {name: model.read(name) for name in model.variables}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def model(copied):
    return copied("model")


@pytest.fixture
def sharded(model):
    shard(model)
    return model


def test_shards_hold_the_same_arrays(model):
    whole = arrays(model)
    shard(model)
    assert_same(arrays(model), whole)


def test_rows_of_the_table_are_read_by_slices(model):
    table = safetensors.numpy.load_file(model / "model.safetensors")["shared.weight"]
    opened = formats.open_model(model)
    ids = np.array([63, 0, 5, 5])
    np.testing.assert_array_equal(opened.rows("token_embedder/embedding", ids), table[ids])
    kernel = "encoder/layers_1/mlp/wo/kernel"
    np.testing.assert_array_equal(opened.rows(kernel, ids), opened.read(kernel)[ids])


def test_arrays_keep_their_dtype(model):
    whole = arrays(model)
    tensors = safetensors.numpy.load_file(model / "model.safetensors")
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    safetensors.numpy.save_file(halves, model / "model.safetensors")
    opened = formats.open_model(model)
    assert {variable.dtype for variable in opened.variables.values()} == {"bfloat16"}
    assert_same(
        {name: opened.read(name) for name in opened.variables},
        {name: array.astype(ml_dtypes.bfloat16) for name, array in whole.items()},
    )
    assert opened.rows("token_embedder/embedding", np.array([1])).dtype == np.float32


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "lm_head.weight"])
def test_copies_of_the_table_must_equal_it(copied, name):
    model = copied("model_v1_0")
    whole = arrays(model)
    table = safetensors.numpy.load_file(model / "model.safetensors")["shared.weight"]
    change_tensors(model, **{name: table})
    assert_same(arrays(model), whole)
    change_tensors(model, **{name: table + 1})
    opened = formats.open_model(model)
    with pytest.raises(InputError, match=f"{name} differs from shared.weight"):
        opened.read("token_embedder/embedding")
    with pytest.raises(InputError, match=f"{name} differs from shared.weight"):
        opened.rows("token_embedder/embedding", np.array([7]))


def test_the_table_may_go_by_the_encoders_name(model):
    whole = arrays(model)
    table = safetensors.numpy.load_file(model / "model.safetensors")["shared.weight"]
    change_tensors(model, **{"shared.weight": None, "encoder.embed_tokens.weight": table})
    assert_same(arrays(model), whole)


def test_position_biases_that_nothing_reads_are_left_out(model):
    whole = arrays(model)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    change_tensors(model, **{name: np.zeros((32, 4), np.float32)})
    assert_same(arrays(model), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"], "model_type": "bert"}, "architecture .'BertModel'., exp"),
        ({"architectures": ["MT5EncoderModel"], "model_type": "mt5"}, "MT5EncoderModel"),
        ({"architectures": ..., "model_type": "umt5"}, "architecture .'umt5'., expected T5For"),
        ({"model_type": "mt5"}, "model_type is 'mt5', and architectures is .'T5ForCond"),
        ({"model_type": ...}, "has no 'model_type'"),
        ({"architectures": "T5"}, "architectures is 'T5', expected a list"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu', expected"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05, and of T5 only 1e-06"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2, and"),
        ({"d_model": ...}, "has no 'd_model'"),
        ({"d_model": 64}, "'shared.weight' has the shape .64, 32., and by config.json it has"),
        ({"num_layers": 10**7}, "num_layers is 10000000, expected a whole number from 1 to 10000"),
        ({"d_kv": 0}, "d_kv is 0, expected a whole number from 1 to"),
        ({"num_heads": 2.0}, "num_heads is 2.0, expected a whole number"),
        ({"num_layers": 3}, "tensors that config.json asks for are missing, the first is 'enc"),
        ({"num_layers": 1}, "holds 'encoder.block.1.+does not have; are these files of one model"),
        ({"feed_forward_proj": "relu"}, "are missing, the first is '.+wi.weight'; did you mean"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
        (
            {"scale_decoder_outputs": ..., "scale_decoder_output": False},
            "unknown key 'scale_decoder_output'; did you mean 'scale_decoder_outputs'",
        ),
    ],
)
def test_another_config(model, changes, message):
    change_config(model, **changes)
    assert_refused(model, message)


def test_older_configs_say_less(model):
    whole = arrays(model)
    change_config(
        model, architectures=..., relative_attention_max_distance=..., num_decoder_layers=...,
        layer_norm_epsilon=..., scale_decoder_outputs=..., tie_word_embeddings=False,
    )  # fmt: skip
    assert_same(arrays(model), whole)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("encoder.final_layer_norm.weight", None, "1 of the tensors .+ missing, the first is"),
        ("encoder.final_layer_norm.weight", np.ones(32, np.int32), "has the dtype I32, expected"),
        ("encoder.final_layer_norm.weight", np.ones(33, np.float32), "has the shape .33,., and"),
        ("classifier.weight", np.ones(33, np.float32), "holds 'classifier.weight', which the T5"),
    ],
)
def test_other_tensors(model, name, array, message):
    change_tensors(model, **{name: array})
    assert_refused(model, message)


def test_a_missing_shard(sharded):
    (sharded / SHARDS[1]).unlink()
    assert_refused(sharded, f"the shard '{SHARDS[1]}', which {INDEX} names, is missing; copy all 2")


def test_a_shard_without_a_tensor_of_the_index(sharded):
    tensors = safetensors.numpy.load_file(sharded / SHARDS[1])
    del tensors["shared.weight"]
    safetensors.numpy.save_file(tensors, sharded / SHARDS[1])
    assert_refused(sharded, f"'{SHARDS[1]}' has no 'shared.weight', which .+ of one model")


def test_shards_that_were_exchanged(sharded):
    (sharded / SHARDS[0]).rename(sharded / "x")
    (sharded / SHARDS[1]).rename(sharded / SHARDS[0])
    (sharded / "x").rename(sharded / SHARDS[1])
    assert_refused(sharded, f"'{SHARDS[0]}' holds '.+', which is in '{SHARDS[1]}' by {INDEX}")


def test_a_tensor_that_the_index_does_not_name(model):
    index = shard(model)
    del index["weight_map"]["shared.weight"]
    write_json(model / INDEX, index)
    assert_refused(model, f"'{SHARDS[1]}' holds 'shared.weight', which is in no shard")


@pytest.mark.parametrize("file", ["../other.safetensors", "/x.safetensors", "", 3])
def test_an_index_that_points_elsewhere(model, file):
    index = shard(model)
    index["weight_map"]["shared.weight"] = file
    write_json(model / INDEX, index)
    assert_refused(model, "'shared.weight' is in .+, expected a file of this folder")


def test_one_file_beside_several(sharded):
    shutil.copy(sharded / SHARDS[0], sharded / "model.safetensors")
    assert_refused(sharded, "a model in one file and one in several; remove one")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("weights.pt", "pickled weights .weights.pt.+never loaded; save them as model.safetensors"),
        ("flax_model.msgpack", "holds no model.safetensors; flax_model.msgpack is of a form"),
        ("other.safetensors", f"other.safetensors, but neither model.safetensors nor {INDEX}"),
    ],
)
def test_weights_in_another_form(model, file, message):
    (model / "model.safetensors").rename(model / file)
    assert_refused(model, message)


@pytest.mark.parametrize(
    "files", [["pytorch_model.bin"], [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]]
)
def test_the_recipe_for_pickled_weights(model, monkeypatch, files):
    # Stands for PyTorch, which the tests do without.
    def load(file, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        arrays = safetensors.numpy.load_file(file)
        return {name: SimpleNamespace(clone=lambda a=a: SimpleNamespace(contiguous=lambda: a))
                for name, a in arrays.items()}  # fmt: skip

    whole = arrays(model)
    tensors = list(safetensors.numpy.load_file(model / "model.safetensors").items())
    (model / "model.safetensors").unlink()
    for number, file in enumerate(files):
        safetensors.numpy.save_file(dict(tensors[number :: len(files)]), model / file)
    with pytest.raises(InputError, match=f"pickled weights .{files[0]}.+never loaded") as caught:
        formats.open_model(model)
    recipe = str(caught.value).partition("in Python: ")[2]
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(load=load))
    saving = SimpleNamespace(save_file=safetensors.numpy.save_file)
    monkeypatch.setitem(sys.modules, "safetensors.torch", saving)
    monkeypatch.setattr(safetensors, "torch", saving, raising=False)
    exec(recipe, {})
    assert_same(arrays(model), whole)


def test_a_pickle_in_disguise(model):
    (model / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    assert_refused(model, "holds pickled weights, which are never loaded")
    (model / "model.safetensors").write_bytes(pickle.dumps({"shared.weight": [1.0] * 99}))
    assert_refused(model, "not a readable safetensors file")


@pytest.mark.parametrize("cut", [0, 7, 1000, 100_000])
def test_a_file_that_was_cut(model, cut):
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:cut])
    assert_refused(model, "not a readable safetensors file")


def test_a_file_that_is_cut_after_it_was_opened(model):
    opened = formats.open_model(model)
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(InputError, match="became shorter"):
        opened.read("token_embedder/embedding")


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_without_its_config(model, file):
    (model / "model.safetensors").rename(model / file)
    assert_refused(model / file, "give the directory that holds it")
    (model / "config.json").unlink()
    assert_refused(model, "no config.json; copy that, too")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs(model, file):
    if file == "pytorch_model.bin":
        (model / "model.safetensors").unlink()
    (model / file).write_text(POINTER)
    assert_refused(model, f"{file}: a Git LFS pointer, .+; run git lfs pull")


def test_a_pointer_that_nothing_reads(model):
    whole = arrays(model)
    (model / "pytorch_model.bin").write_text(POINTER)
    assert_same(arrays(model), whole)


@pytest.fixture(scope="module")
def damageable(tmp_path_factory):
    """A sharded model, its arrays, and the bytes of what describes them."""
    folder = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(Path(__file__).parent / "golden" / "model", folder)
    shard(folder)
    described = {}
    for name in ("config.json", INDEX, SHARDS[1]):
        data = (folder / name).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little") if name == SHARDS[1] else len(data)
        described[name] = (data, end)
    return folder, arrays(folder), described


@given(data=st.data())
def test_a_damaged_byte_gives_the_arrays_or_an_error(damageable, data):
    folder, expected, described = damageable
    name = data.draw(st.sampled_from(list(described)))
    content, end = described[name]
    place = data.draw(st.integers(0, end - 1))
    byte = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    try:
        found = arrays(folder)
    except InputError as error:
        one_line = "\n" not in str(error)
        assert one_line
    else:
        assert_same(found, expected)
    finally:
        (folder / name).write_bytes(content)
