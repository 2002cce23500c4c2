"""The embedded engine runs from Hugging Face's files and PEFT's as from this project's own."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import safetensors.numpy
import sentencepiece

from prompt_tuning_files import formats

TASK = """
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks

toy/tasks.TextTask:
  splits = {'train': 'rows.tsv', 'validation': 'rows.tsv', 'test': 'rows.tsv'}
  inputs = '{text}'
  targets = '{label}'
  metrics = ['exact_match']
"""
ROWS = "text\tlabel\na good day\tgood\na bad day\tbad\nbad bad\tbad\n"
FLAGS = {
    "VOCABULARY_FILE": "vocabulary.model",
    "vocabularies.SentencePieceVocabulary.extra_ids": 0,
    "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 8},
    "MIXTURE_OR_TASK_NAME": "toy",
    "BATCH_SIZE": 3,
    "PROMPT_LENGTH": 4,
}


@pytest.fixture
def run(main, tmp_path, monkeypatch):
    """Runs a command with these gin files and macros."""
    monkeypatch.chdir(tmp_path)

    def command(name, *files, **macros):
        flags = [f"--gin_file={file}" for file in ("models/t5_prompt.gin", "task.gin", *files)]
        flags += [f"--gin.{macro}={value!r}" for macro, value in {**FLAGS, **macros}.items()]
        code, _, error = main(name, *flags)
        assert code == 0, error

    return command


def write_vocabulary(path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([ROWS] * 3), model_writer=model, vocab_size=20, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning")  # Its table is tiny.
def test_training_and_evaluating_a_t5_1_0(copied, tmp_path, run):
    theirs = copied("model_v1_0")
    # The project's own form has no place for another distance.
    config = json.loads((theirs / "config.json").read_text())
    config["relative_attention_max_distance"] = 128
    (theirs / "config.json").write_text(json.dumps(config))
    opened = formats.open_model(theirs)
    arrays = {name: opened.read(name) for name in opened.variables}
    (tmp_path / "ours").mkdir()
    safetensors.numpy.save_file(arrays, tmp_path / "ours" / "model.safetensors")
    write_vocabulary(tmp_path / "vocabulary.model")
    (tmp_path / "task.gin").write_text(TASK)
    (tmp_path / "rows.tsv").write_text(ROWS)

    prompts = []
    for model in (theirs.name, "ours"):
        run(
            "train", "prompts/from_class_labels.gin", "runs/prompt_finetune.gin",
            INITIAL_CHECKPOINT_PATH=model, MODEL_DIR=f"run_{model}", CLASS_LABELS=["good", "bad"],
            TRAIN_STEPS=2, RANDOM_SEED=0,
        )  # fmt: skip
        prompts.append(formats.read_prompt(tmp_path / f"run_{model}" / "prompt_2.npy"))
    np.testing.assert_array_equal(prompts[0].array, prompts[1].array)
    assert prompts[0].provenance["model"]["sha256"] == prompts[1].provenance["model"]["sha256"]

    formats.write_prompt("adapter", prompts[0].array, prompts[0].provenance)
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(theirs)
    run(
        "eval", "runs/prompt_eval.gin", CHECKPOINT_PATH=theirs.name,
        PROMPT_FILE="adapter", EVAL_OUTPUT_DIR="out",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "toy-test-metrics.json").read_text())
    trained = prompts[0].provenance["metrics"]["validation"]
    assert found["exact_match"] == trained["exact_match"]
