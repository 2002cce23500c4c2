"""The demo's model with a task of seqio's own, from the command line, killed and gone on with."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from prompt_tuning_demo import model, reviews

# As a user of T5X writes it: files of lines, preprocessors that draw, postprocessing, both kinds of
# metrics.
MODULE = f"""
import numpy as np
import seqio
import tensorflow as tf

vocabulary = seqio.SentencePieceVocabulary({str(model.vocabulary_path())!r}, extra_ids=100)

@seqio.map_over_dataset
def parse(line):
    text, label = tf.unstack(tf.strings.split(line, "\\t"), num=2)
    return {{"inputs": text, "targets": label}}

@seqio.map_over_dataset(num_seeds=1)
def drop_words(example, seed):
    ids = example["inputs"]
    kept = tf.random.stateless_uniform(tf.shape(ids), seed) < 0.9
    return {{**example, "inputs": tf.boolean_mask(ids, kept)}}

def accuracy(targets, predictions):
    return {{"accuracy": np.mean(np.array(targets) == np.array(predictions))}}

def score(targets, scores):
    return {{"log_likelihood": np.mean(scores)}}

def label(text, example, is_target):
    return ["negative", "positive"].index(text) if text in ("negative", "positive") else -1

for name, preprocessors in (("reviews", []), ("reviews_of_fewer_words", [drop_words])):
    seqio.TaskRegistry.add(
        name,
        source=seqio.TextLineDataSource({{"train": "train.tsv", "validation": "validation.tsv"}}),
        preprocessors=[
            parse,
            seqio.preprocessors.tokenize,
            *preprocessors,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={{
            "inputs": seqio.Feature(vocabulary), "targets": seqio.Feature(vocabulary)
        }},
        postprocess_fn=label,
        metric_fns=[accuracy, score],
    )
seqio.MixtureRegistry.add("all_reviews", [("reviews", 2), ("reviews_of_fewer_words", 1)])
"""

# A hooks plugin that kills the first run at a step.
KILLER = """
import os, signal
from prompt_tuning_core.hookspecs import hookimpl

@hookimpl
def step_logged(step):
    if step == int(os.environ.get("KILL_AT", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path, site):
    corpus = reviews.read_corpus().reviews
    for split, count in (("train", 1000), ("validation", 200)):
        lines = [
            f"{' '.join(review.text.split())}\t{review.label}\n" for review in corpus[split][:count]
        ]
        (tmp_path / f"{split}.tsv").write_text("".join(lines))
    (tmp_path / "review_tasks.py").write_text(MODULE)
    site.distribution("killer", {"hooks": {"killer": "killer"}}, {"killer.py": KILLER})
    return tmp_path


def run(command, folder, gin_files, macros, **environment):
    return subprocess.run(
        [sys.executable, "-m", "prompt_tuning_core", command, "--engine=local",
         *(f"--gin_file={file}" for file in gin_files),
         *(f"--gin.{name}={value!r}" for name, value in macros.items())],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'site'}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


TASK = {"MIXTURE_OR_TASK_NAME": "all_reviews", "MIXTURE_OR_TASK_MODULE": "review_tasks"}


def train(folder, directory, **environment):
    macros = {**TASK, "MODEL_DIR": directory, "TRAIN_STEPS": 40, "EVAL_PERIOD": 40,
              "SAVE_PERIOD": 10, "HOOKS": ["killer"]}  # fmt: skip
    return run("train", folder, ["runs/demo.gin"], macros, **environment)


@pytest.mark.seqio
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("seqio") is None, reason="needs the extra seqio of the local engine"
)
def test_a_mixture_of_seqio_trains_goes_on_exactly_and_is_evaluated(folder):
    finished = train(folder, "unbroken")
    assert finished.returncode == 0, finished.stderr
    facts = json.loads((folder / "unbroken" / "prompt_40.json").read_text())
    assert {"seqio", "tensorflow"} <= facts["versions"].keys()
    metrics = facts["metrics"]["validation"]
    assert metrics.keys() == {
        f"{task}/{metric}"
        for task in ("reviews", "reviews_of_fewer_words")
        for metric in ("accuracy", "log_likelihood")
    }
    assert metrics["reviews/accuracy"] > 0.6
    assert metrics["reviews/log_likelihood"] > -0.8

    killed = train(folder, "run", KILL_AT="23")
    assert killed.returncode == -9, killed.stderr
    finished = train(folder, "run")
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"going on from step [12]0", finished.stdout)  # The last save may be lost.
    np.testing.assert_array_equal(
        *(np.load(folder / directory / "prompt_40.npy") for directory in ("unbroken", "run"))
    )

    files = ["models/demo_prompt.gin", "runs/prompt_eval.gin"]
    macros = {**TASK, "PROMPT_FILE": "run", "EVAL_OUTPUT_DIR": "out", "EVAL_SPLIT": "validation",
              "BATCH_SIZE": 64}  # fmt: skip
    finished = run("eval", folder, files, macros)
    assert finished.returncode == 0, finished.stderr
    found = json.loads((folder / "out" / "reviews-validation-metrics.json").read_text())
    assert found["accuracy"] == metrics["reviews/accuracy"]
    rows = (folder / "out" / "reviews-validation-predictions.jsonl").read_text().split("\n")[:-1]
    first = json.loads(rows[0])
    text, label = (folder / "validation.tsv").read_text().split("\n")[0].split("\t")
    assert (first["inputs"], first["targets"]) == (text, label)
    assert first["prediction"] in ("positive", "negative")
    assert first["score"] < 0
