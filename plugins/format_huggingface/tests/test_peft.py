"""Prompts cross over to PEFT and back."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prompt_tuning_core.commands import main as cli
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import formats

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE = "google/t5-small-lm-adapt"
PROVENANCE = {"model": {"path": BASE}, "task": {"name": "wörter"}, "step": 7}
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def adapter(copied):
    return copied("adapter")


@pytest.fixture
def prompt(golden):
    return golden("hf_t5")["prompt"]


def change_config(adapter, **changes):
    config = {**json.loads((adapter / CONFIG).read_text()), **changes}
    (adapter / CONFIG).write_text(json.dumps(config))
    return config


def header(file):
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found = json.loads(data[8 : 8 + length])
    return found.pop("__metadata__"), found


def test_an_adapter_is_read_with_its_facts(adapter, prompt):
    found = formats.read_prompt(adapter, (4, 32))
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, prompt)
    assert found.provenance == {"adapter_config": json.loads((adapter / CONFIG).read_text())}


@pytest.mark.parametrize("name", ["default", "p_tuning", "with_embeddings"])
def test_the_rows_are_those_that_peft_uses(golden, name):
    found = formats.read_prompt(GOLDEN / "peft" / name, (3, 32))
    np.testing.assert_array_equal(found.array, golden("peft")[f"{name}_prompt"])
    config = found.provenance["adapter_config"]
    assert (config["num_transformer_submodules"], config["num_virtual_tokens"]) == (2, 3)


def test_rows_of_an_adapter_that_does_not_say_how_many_it_has(copied, golden):
    # Before version 0.21, or written by hand: the default follows from the task_type.
    adapter = copied("peft") / "default"
    change_config(adapter, num_transformer_submodules=None)
    found = formats.read_prompt(adapter).array
    np.testing.assert_array_equal(found, golden("peft")["default_prompt"])


def test_several_adapters_in_a_folder(tmp_path):
    for name in ("first", "second"):
        shutil.copytree(GOLDEN / "adapter", tmp_path / "several" / name)
    first, second = (tmp_path / "several" / name for name in ("first", "second"))
    assert_refused(tmp_path / "several", f"holds 2 adapters in .+; give one of {first}, {second}$")
    assert formats.read_prompt(second).array.shape == (4, 32)


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_written_adapter_is_pefts_own(adapter, prompt, tmp_path, ending):
    # PEFT itself is no dependency: its file has the same tensors, its config the same values.
    written = tmp_path / "new" / "written"
    formats.write_prompt(f"{written}{ending}", prompt, PROVENANCE)
    assert sorted(os.listdir(written)) == [CONFIG, TENSORS]
    metadata, tensors = header(written / TENSORS)
    theirs_metadata, theirs = header(adapter / TENSORS)
    assert tensors == theirs
    assert metadata.items() >= theirs_metadata.items()
    data, expected = ((path / TENSORS).read_bytes()[-512:] for path in (written, adapter))
    assert data == expected
    config = json.loads((written / CONFIG).read_text())
    theirs = json.loads((adapter / CONFIG).read_text())
    # PEFT takes these two from the base model.
    assert config == {**{key: theirs[key] for key in config}, "num_layers": None,
                      "num_attention_heads": None, "base_model_name_or_path": BASE}  # fmt: skip


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)),
        elements=st.floats(width=32, allow_nan=False),
    )
)  # fmt: skip
def test_round_trip(tmp_path_factory, array):
    folder = tmp_path_factory.getbasetemp() / "round trip"
    formats.write_prompt(folder, array, PROVENANCE)
    found = formats.read_prompt(folder, array.shape)
    assert found.array.tobytes() == array.tobytes()
    assert found.provenance.items() >= PROVENANCE.items()


def test_facts_about_the_base_model_are_kept(adapter, tmp_path):
    config = change_config(adapter, base_model_name_or_path="google/flan-t5-small")
    found = formats.read_prompt(adapter)
    formats.write_prompt(tmp_path / "prompt.npy", found.array, found.provenance)
    found = formats.read_prompt(tmp_path / "prompt.npy")
    formats.write_prompt(tmp_path / "again", found.array, found.provenance)
    again = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert again == {key: config[key] for key in again}
    assert again["num_layers"] == 2


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ({"path": "t5_1_1_lm100k_small"}, BASE),
        ({"path": "gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_small/checkpoint_1100000/"},
         BASE),
        ({"path": "hub/models--google--flan-t5-small/snapshots/0f"}, "google/flan-t5-small"),
        ({"path": "model"}, str(GOLDEN / "model")),
        ({"path": "checkpoint_7", "hugging_face": "me/my-t5"}, "me/my-t5"),
        ({"path": BASE, "hugging_face": "model"}, str(GOLDEN / "model")),
    ],
)  # fmt: skip
def test_a_written_adapter_names_its_base(prompt, tmp_path, monkeypatch, model, base):
    monkeypatch.chdir(GOLDEN)
    # The base of the adapter that a prompt came from comes after what its provenance says.
    before = {"base_model_name_or_path": "another", "num_layers": 7}
    facts = {"model": model, "adapter_config": before}
    formats.write_prompt(tmp_path / "adapter", prompt, facts)
    written = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert (written["base_model_name_or_path"], written["num_layers"]) == (base, None)


@pytest.mark.parametrize("facts", [{}, {"model": {"path": "checkpoint_7"}}, {"model": "t5"}])
def test_an_adapter_without_a_base_is_written_with_a_warning(prompt, tmp_path, facts):
    with pytest.warns(UserWarning, match="base_model_name_or_path is null in .+--hugging-face NAM"):
        formats.write_prompt(tmp_path / "adapter", prompt, facts)
    np.testing.assert_array_equal(formats.read_prompt(tmp_path / "adapter").array, prompt)


def test_convert_names_the_base(prompt, tmp_path, capsys):
    np.save(tmp_path / "prompt.npy", prompt)
    convert = ["prompt", "convert", f"{tmp_path}/prompt.npy", f"{tmp_path}/adapter"]
    assert cli.main([*convert, "--hugging-face=me/my-t5"]) == 0
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "me/my-t5"
    assert capsys.readouterr().err == ""


def test_an_adapter_is_replaced_and_nothing_else(prompt, tmp_path):
    target = tmp_path / "adapter"
    for step in (1, 2):
        formats.write_prompt(target, prompt * step, {**PROVENANCE, "step": step})
    assert formats.read_prompt(target).provenance["step"] == 2
    np.testing.assert_array_equal(formats.read_prompt(target).array, prompt * 2)
    assert os.listdir(tmp_path) == ["adapter"]
    (target / "README.md").write_text("mine")
    with pytest.raises(InputError, match="can't be replaced by a PEFT adapter: it holds README"):
        formats.write_prompt(target, prompt, {})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="it is a file; name another"):
        formats.write_prompt(tmp_path / "file", prompt, {})
    assert (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_written_leaves_what_was_there(prompt, tmp_path, monkeypatch):
    target = tmp_path / "adapter"
    formats.write_prompt(target, prompt, {**PROVENANCE, "step": 1})
    renames = []
    rename = Path.rename

    def fail_at_the_second(self, new):
        renames.append(new)
        if len(renames) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, new)

    monkeypatch.setattr(Path, "rename", fail_at_the_second)
    with pytest.raises(InputError, match="adapter: can't be written: No space left on device"):
        formats.write_prompt(target, prompt * 2, {"step": 2})
    assert formats.read_prompt(target).provenance["step"] == 1
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_transformer_submodules": 2}, r"has shape \(4, 32\), and by adapter_c.+ \(8, 32\)"),
        ({"num_transformer_submodules": 0}, "submodules is 0, expected a positive integer"),
        (
            {"num_transformer_submodules": 2, "task_type": "CAUSAL_LM"},
            "num_transformer_submodules is 2 for the task_type 'CAUSAL_LM'; PEFT uses the first",
        ),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .'lm_head'.: parts of the model"),
        ({"peft_type": "LORA"}, "the type 'LORA', expected PROMPT_TUNING or P_TUNING"),
        ({"num_virtual_tokens": "4"}, "num_virtual_tokens is '4', expected a positive integer"),
        ({"token_dim": 16}, r"has shape \(4, 32\), and by adapter_config.json it is \(4, 16\)"),
    ],
)
def test_another_config(adapter, changes, message):
    change_config(adapter, **changes)
    assert_refused(adapter, message)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"prompt_embeddings": np.zeros((4, 32), np.int64)}, "has the dtype I64, expected a flo"),
        (
            {"lora_A.weight": np.zeros(3)},
            "holds 'lora_A.weight', expected prompt_embeddings and at",
        ),
        (
            {"prompt_embeddings": np.zeros((4, 32)), "base_model.score.weight": np.zeros(3)},
            "holds .*'base_model.score.weight'.*, expected .+ at most the embedding layers",
        ),
        ({"base_model.shared.weight": np.zeros(3)}, "shared.weight', expected prompt_embeddings"),
        ({}, "holds nothing, expected prompt_embeddings and at most"),
    ],
)
def test_other_tensors(adapter, tensors, message):
    safetensors.numpy.save_file(tensors, adapter / TENSORS)
    assert_refused(adapter, message)


def test_another_shape_than_asked_for(adapter):
    with pytest.raises(InputError, match=r"has shape \(4, 32\), expected \(5, 32\)"):
        formats.read_prompt(adapter, (5, 32))


def test_missing_files(adapter):
    tensors = (adapter / TENSORS).read_bytes()
    (adapter / TENSORS).unlink()
    assert_refused(adapter, f"holds no {TENSORS}")
    (adapter / "adapter_model.bin").write_bytes(b"\x80")
    assert_refused(adapter, "holds pickled weights .adapter_model.bin., which are never loaded")
    (adapter / TENSORS).write_bytes(tensors)
    (adapter / CONFIG).unlink()
    assert_refused(adapter, f"holds an adapter of PEFT without its {CONFIG}")


def assert_refused(adapter, message):
    with pytest.raises(InputError, match=message) as caught:
        formats.read_prompt(adapter)
    assert "\n" not in str(caught.value)
    assert str(adapter) in str(caught.value)


@pytest.fixture(scope="module")
def damageable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "adapter"
    shutil.copytree(Path(__file__).parent / "golden" / "adapter", folder)
    return folder, {name: (folder / name).read_bytes() for name in (CONFIG, TENSORS)}


@given(data=st.data())
def test_a_damaged_byte_gives_the_prompt_or_an_error(damageable, data):
    folder, contents = damageable
    expected = contents[TENSORS][-512:]
    name = data.draw(st.sampled_from([CONFIG, TENSORS]))
    content = contents[name]
    end = len(content) - (512 if name == TENSORS else 0)
    place = data.draw(st.integers(0, end - 1))
    byte = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    try:
        found = formats.read_prompt(folder).array
    except InputError as error:
        one_line = "\n" not in str(error)
        assert one_line
    else:
        assert found.shape == (4, 32)
        assert found.tobytes() == expected
    finally:
        (folder / name).write_bytes(content)
