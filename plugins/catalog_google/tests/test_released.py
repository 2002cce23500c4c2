"""Models and prompts that are called by name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import prompt_tuning_catalog_google as released
from prompt_tuning_core import gin_config
from prompt_tuning_core.errors import InputError
from prompt_tuning_files import names


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """An empty current directory, a home of its own, and no variables."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", released.PROMPTS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def test_released_models_have_the_sizes_of_their_gin_files():
    folders = gin_config.search_paths("local")
    models = released.released_models()
    assert len(models) == 5
    for model in models:
        size = model.name.removeprefix("t5_1_1_lm100k_")
        assert gin_config.find(model.gin_file, folders).is_file()
        text = gin_config.find(f"models/sizes/{size}.gin", folders).read_text()
        macros = {name: int(value) for name, value in re.findall(r"(?m)^(\w+) = (\d+)$", text)}
        assert macros == {
            "NUM_HEADS": model.heads,
            "NUM_ENCODER_LAYERS": model.layers,
            "NUM_DECODER_LAYERS": model.layers,
            "HEAD_DIM": model.head_width,
            "EMBED_DIM": model.width,
            "MLP_DIM": model.mlp_width,
        }
        attention = 4 * model.width * model.heads * model.head_width
        mlp = 3 * model.width * model.mlp_width
        encoder_layer = attention + mlp + 2 * model.width
        decoder_layer = 2 * attention + mlp + 3 * model.width
        assert model.parameters == (
            2 * model.vocabulary_rows * model.width  # The embeddings, and those of the logits.
            + model.layers * (encoder_layer + decoder_layer)
            + 2 * model.width  # The last layer norms.
            + 2 * 32 * model.heads  # The biases of relative positions.
        )


def test_a_released_model_is_where_t5x_has_it(elsewhere):
    address = "gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_xl/checkpoint_1100000"
    assert names.resolve_model("t5_1_1_lm100k_xl") == address
    assert names.resolve_model("gs://bucket/model") == "gs://bucket/model"
    # A directory of this name comes first.
    Path("t5_1_1_lm100k_xl").mkdir()
    assert names.resolve_model("t5_1_1_lm100k_xl") == "t5_1_1_lm100k_xl"


def test_a_name_at_hugging_face_is_the_snapshot_that_was_downloaded(elsewhere, monkeypatch):
    name = "google/t5-small-lm-adapt"
    with pytest.raises(InputError, match=f"run: hf download {name}, .* name t5_1_1_lm100k_small$"):
        names.resolve_model(name)
    folder = elsewhere / "home/.cache/huggingface/hub/models--google--t5-small-lm-adapt"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    with pytest.raises(InputError, match="incomplete"):
        names.resolve_model(name)
    (folder / "snapshots" / "0123abcd").mkdir(parents=True)
    assert names.resolve_model(name) == str(folder / "snapshots" / "0123abcd")
    monkeypatch.setenv("HF_HOME", str(elsewhere))
    with pytest.raises(InputError, match=f"not downloaded to {elsewhere / 'hub'};"):
        names.resolve_model(name)


def test_unknown_names_get_the_nearest(elsewhere):
    with pytest.raises(InputError, match=r"no such file .* did you mean 't5_1_1_lm100k_base'"):
        names.resolve_model("t5_1_1_lm100k_bas")
    with pytest.raises(InputError, match="did you mean 't5_1_1_lm100k_base/sst2'"):
        names.resolve_prompt("t5_1_1_lm100k_base/sst-2")
    with pytest.raises(InputError, match=r"name that prompt-tuning prompt list prints$"):
        names.resolve_prompt("run/prompt.npy")


def test_a_released_prompt_is_read_where_it_was_put(elsewhere, monkeypatch):
    name = "t5_1_1_lm100k_base/rte"
    path = elsewhere / "home/.cache/prompt-tuning/prompts/t5_1_1_lm100k_base/rte.npy"
    with pytest.raises(
        InputError, match=f"fetch {re.escape(released.released_prompts()[2].file)} of https"
    ):
        names.resolve_prompt(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"is not the released file: its sha256 is "):
        names.resolve_prompt(name)
    facts = [vars(prompt) for prompt in released.released_prompts()]
    for fact in facts:
        fact["sha256"] = hashlib.sha256(b"something else").hexdigest()
    changed = tuple(released.ReleasedPrompt(**fact) for fact in facts)
    monkeypatch.setattr(released, "released_prompts", lambda: changed)
    assert names.resolve_prompt(name) == str(path)
    monkeypatch.setenv(released.PROMPTS_VARIABLE, str(elsewhere / "mine"))
    with pytest.raises(InputError, match=f"^prompt {name}: {elsewhere / 'mine' / name}.npy cannot"):
        names.resolve_prompt(name)
