"""A text task that is registered with seqio is the same there as in the embedded engine."""

from __future__ import annotations

import json
import math
import warnings

import golden_data
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TASK
from tiny_model import make_model

import prompt_tuning_tasks as tasks
from prompt_tuning_core import gin_config
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_engine_local.data import batching, find_task, text_components
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor
from prompt_tuning_tasks import Mixture, TextTask, metrics, text_tasks
from prompt_tuning_tasks import seqio_registration as to_seqio
from prompt_tuning_tasks.feature_lengths import FeatureLengths

pytestmark = pytest.mark.seqio

VOCABULARY = golden_data.VOCABULARY
EXTRA_IDS = 38
LENGTHS = FeatureLengths(16, 6)
TEXTS = ["this is a test", "", "a <extra_id_0> test", "sad<extra_id_1>", " that  was ", "ü\u2028z"]


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio", reason="needs the extra seqio of the local engine")


@pytest.fixture
def vocabulary(seqio):
    yield seqio.SentencePieceVocabulary(str(VOCABULARY), EXTRA_IDS)
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        registry.reset()
    to_seqio._registered.clear()


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    labels = ["this is", "that", "a test", "that", "this", ""]
    lines = [json.dumps({"a": a, "b": b}) for a, b in zip(TEXTS, labels, strict=True)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def last_letters(expected, answered):
    """A user's metric, whose parameters have other names than seqio's."""
    return {"last": np.mean([e[-1:] == a[-1:] for e, a in zip(expected, answered, strict=True)])}


def own_task(rows, name="own"):
    return TextTask(name, {"train": rows, "test": [rows, rows]}, inputs="{a}", targets="{b}",
                    metrics=[*metrics.METRICS, last_letters])  # fmt: skip


def in_both_engines(golden, seqio, task, split):
    """Evaluates a text task as itself, as seqio's task here, and by seqio's own evaluator."""
    predictor = Predictor(make_model(), golden("tiny_params"), LENGTHS, 3, Placement())
    prompt = golden("tiny_prompt")
    # Text tasks come first by name: this one is known to seqio only.
    (component,) = find_task.find(task.name, None).components(split)
    assert type(component).__name__ == "SeqioComponent"
    text, theirs = (
        predictor.prepare(c, split) for c in (text_components.TextComponent(task), component)
    )
    assert batching.checksum([text.tokenized]) == batching.checksum([theirs.tokenized])
    assert [(e.inputs, e.targets) for e in text.examples] == [
        (e.inputs, e.targets) for e in theirs.examples
    ]
    first, second = (predictor.evaluate_prepared(read, prompt) for read in (text, theirs))
    assert first.predictions == second.predictions
    model = make_model()
    ids = []
    for batch, _ in batching.evaluation_batches(
        text.tokenized, batching.padded_lengths(LENGTHS, bucketing=False), 1
    ):
        tokens = jnp.asarray(batch["encoder_input_tokens"])
        ids.append(np.asarray(model.generate(prompt, predictor.frozen, tokens, 6).ids)[0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = seqio.Evaluator(
            task.name,
            seqio.EncDecFeatureConverter(pack=False),
            split,
            sequence_length={"inputs": 16, "targets": 6},
        )
        future, _ = evaluator.evaluate(
            compute_metrics=True, predict_fn=lambda dataset: list(enumerate(ids))
        )
    return first.metrics, second.metrics, future.result()[task.name]


@pytest.mark.filterwarnings(
    # The rows have long inputs and empty targets on purpose.
    "ignore:task 'own', split 'test'.*were cut:UserWarning",
    "ignore:task 'own', split 'test'.*targets are empty:UserWarning",
)
def test_ids_targets_and_metrics_are_those_of_the_text_task(golden, seqio, vocabulary, rows):
    task = own_task(rows)
    to_seqio.register(task, vocabulary)
    ours, theirs, evaluators = in_both_engines(golden, seqio, task, "test")
    assert set(ours) == {*metrics.METRICS, "last"}
    assert ours == theirs == evaluators
    assert not any(map(math.isnan, ours.values()))


def test_a_task_described_in_gin_with_names_of_targets(
    golden, seqio, vocabulary, project, monkeypatch
):
    monkeypatch.chdir(project)
    gin_config.parse(RunFlags(gin_files=("task.gin",)), engine="local")
    assert "toy" in TASK
    task = tasks.get("toy")
    found = to_seqio.register(task, vocabulary)
    targets = [e["targets_pretokenized"] for e in found.get_dataset(
        split="test", shuffle=False
    ).as_numpy_iterator()]  # fmt: skip
    assert targets == [e.targets.encode() for e in task.examples("test")]
    # In a process of T5X there is no gin config of the engine's.
    gin_config.gin.clear_config()
    ours, theirs, evaluators = in_both_engines(golden, seqio, task, "test")
    assert ours == theirs == evaluators


def test_mixtures_become_mixtures_of_the_same_rates(seqio, vocabulary, rows, monkeypatch):
    monkeypatch.setattr(text_tasks, "_REGISTERED", {})
    one, two = (tasks.register(own_task(rows, name)) for name in ("one", "two"))
    mixture = tasks.register(Mixture("both", {"one": 3, "two": 0.5}))
    found = to_seqio.register(mixture, vocabulary)
    assert {task.name: found.get_rate(task) for task in found.tasks} == {"one": 3, "two": 0.5}
    # The same again, alone or in another mixture, is no conflict.
    assert to_seqio.register(one, vocabulary) is seqio.TaskRegistry.get("one")
    assert to_seqio.register(mixture, vocabulary) is found
    to_seqio.register(tasks.register(Mixture("second", {"two": 1})), vocabulary)
    with pytest.raises(InputError, match="seqio has another task or mixture called 'two' already"):
        to_seqio.register(own_task(rows, "two"), seqio.ByteVocabulary())
    assert two.name in seqio.TaskRegistry.names()


def test_what_cannot_be_registered(seqio, vocabulary, rows):
    with pytest.raises(InputError, match="Task name 'my-task' contains invalid characters"):
        to_seqio.register(own_task(rows, "my-task"), vocabulary)
    with pytest.raises(InputError, match="of task 'own' is a str, expected seqio's, such as"):
        to_seqio.register(own_task(rows), "vocabulary.model")
    to_seqio.register(TextTask("lacking", {"train": "none.jsonl"}), vocabulary)
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read: No such file"):
        seqio.get_mixture_or_task("lacking").get_dataset(split="train")
