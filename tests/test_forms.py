"""The embedded engine gives the same results from every form of one model."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import golden_data
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning_files import prompt_files

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "plugins" / "format_t5x" / "tests" / "golden"

T5X_FORMS = (
    "t5x_checkpoint_2021", "t5x_checkpoint_msgpack_only", "t5x_checkpoint_prompt", "t5x_orbax"
)  # fmt: skip

TASK = """
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks

toy/tasks.TextTask:
  splits = {'train': 'rows.tsv', 'validation': 'rows.tsv'}
  inputs = '{text}'
  targets = '{label}'
"""
ROWS = "text\tlabel\nthis is a test\tthis\nthat was sad\tthat\nthis is that\tthis\n"

HUGGING_FACE_NAMES = (
    (r"token_embedder/embedding", "shared.weight"),
    (r"decoder/logits_dense/kernel", "lm_head.weight"),
    (r"(\w+)/relpos_bias/rel_embedding",
     r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    (r"(\w+)/(?:en|de)coder_norm/scale", r"\1.final_layer_norm.weight"),
    (r"(\w+)/layers_(\d)/pre_(?:self_)?attention_layer_norm/scale",
     r"\1.block.\2.layer.0.layer_norm.weight"),
    (r"(\w+)/layers_(\d)/pre_cross_attention_layer_norm/scale",
     r"\1.block.\2.layer.1.layer_norm.weight"),
    (r"(\w+)/layers_(\d)/(?:self_)?attention/(\w).*/kernel",
     r"\1.block.\2.layer.0.SelfAttention.\3.weight"),
    (r"(\w+)/layers_(\d)/encoder_decoder_attention/(\w).*/kernel",
     r"\1.block.\2.layer.1.EncDecAttention.\3.weight"),
    (r"encoder/layers_(\d)/pre_mlp_layer_norm/scale",
     r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"decoder/layers_(\d)/pre_mlp_layer_norm/scale",
     r"decoder.block.\1.layer.2.layer_norm.weight"),
    (r"encoder/layers_(\d)/mlp/(\w+)/kernel", r"encoder.block.\1.layer.1.DenseReluDense.\2.weight"),
    (r"decoder/layers_(\d)/mlp/(\w+)/kernel", r"decoder.block.\1.layer.2.DenseReluDense.\2.weight"),
)  # fmt: skip
CONFIG = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 64,
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip


def write_hugging_face(folder, parameters):
    tensors = {}
    for name, array in parameters.items():
        (theirs,) = (re.sub(p, to, name) for p, to in HUGGING_FACE_NAMES if re.fullmatch(p, name))
        # Kernels are [out, in] there, and position biases [buckets, heads].
        turned = array.ndim == 2 and name != "token_embedder/embedding"
        tensors[theirs] = np.ascontiguousarray(array.T if turned else array)
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a task and the same model in every form."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "task.gin").write_text(TASK)
    (folder / "rows.tsv").write_text(ROWS)
    parameters = golden_data.read("tiny_params")
    safetensors.numpy.save_file(parameters, folder / "own.safetensors")
    write_hugging_face(folder / "hugging_face", parameters)
    for name in T5X_FORMS:
        with tarfile.open(GOLDEN / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def train(project, main, monkeypatch):
    """Trains a prompt of one of the project's models from a step of the optimizer."""
    monkeypatch.chdir(project)

    def run(model, step=0):
        code, _, error = main("train", *flags_of(model, step))
        assert code == 0, error
        prompt, facts = prompt_files.read(prompt_files.newest(project / f"run_{model}"))
        return prompt, facts["metrics"], facts["model"]["sha256"]

    return run


def flags_of(model, step):
    macros = {
        "INITIAL_CHECKPOINT_PATH": model, "MODEL_DIR": f"run_{model}", "TRAIN_STEPS_RELATIVE": 3,
        "VOCABULARY_FILE": str(golden_data.VOCABULARY),
        "vocabularies.SentencePieceVocabulary.extra_ids": 38,
        "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 6}, "MIXTURE_OR_TASK_NAME": "toy",
        "BATCH_SIZE": 3, "PROMPT_LENGTH": 5, "RANDOM_SEED": 0, "DROPOUT_RATE": 0.0,
    }  # fmt: skip
    files = ("t5_prompt", "from_sampled_vocab", "prompt_finetune")
    folders = ("models", "prompts", "runs")
    flags = [f"--gin_file={d}/{f}.gin" for d, f in zip(folders, files, strict=True)]
    flags += ["--gin_file=task.gin", "--gin.TRAIN_STEPS=None"]
    # Adafactor counts from the model's step, as T5X's does, and here from 0 for every form.
    flags += [f"--gin.optimizers.adafactor.step_offset={step}"]
    return [*flags, *(f"--gin.{name}={value!r}" for name, value in macros.items())]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning")  # Its table is tiny.
def test_training_and_evaluating_from_each_form_is_the_same(train):
    prompt, metrics, sha256 = train("own.safetensors")
    for model in ("hugging_face", *T5X_FORMS):
        step = 7 if model == "t5x_orbax" else 0
        other_prompt, other_metrics, other_sha256 = train(model, step)
        assert other_sha256 == sha256, model
        assert (other_prompt == prompt).all(), model
        assert other_metrics == metrics, model
