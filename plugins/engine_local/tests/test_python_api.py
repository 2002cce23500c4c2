"""The engine from Python: what gin does, as keywords, and what gin has no words for."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import json
import weakref
from pathlib import Path

import gin
import golden_data
import numpy as np
import pytest
from tiny import ROWS, TINY, gin_flags, training_flags

import prompt_tuning_engine_local as prompt_tuning
import prompt_tuning_tasks as tasks
from prompt_tuning_core import plugins
from prompt_tuning_core.commands.main import main as run_main
from prompt_tuning_core.errors import InputError, PromptTuningError
from prompt_tuning_engine_local.runs.options import TrainingOptions

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

LENGTHS = TINY["TASK_FEATURE_LENGTHS"]
TOY = tasks.TextTask(
    "toy",
    {"train": "rows.jsonl", "validation": "rows.jsonl"},
    inputs="{text}",
    targets="{label}",
    target_names={"0": "that", "1": "this"},
    metrics=["exact_match", "accuracy"],
)
EXAMPLES = [{"inputs": row["text"], "targets": ["that", "this"][row["label"]]} for row in ROWS]
TEXTS = [row["inputs"] for row in EXAMPLES]
TARGETS = [row["targets"] for row in EXAMPLES]


@pytest.fixture(scope="module")
def folder(make_project):
    """A project with a run that the command trained."""
    folder = make_project()
    with contextlib.chdir(folder):
        assert run_main(["train", *training_flags("prompts/from_random_uniform.gin")]) == 0
    gin.clear_config()
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return prompt_tuning.load_model(
        folder / "model",
        vocabulary=golden_data.VOCABULARY,
        extra_ids=38,
        lengths=LENGTHS,
        batch_size=3,
    )


@pytest.fixture(scope="module")
def train(model):
    """Trains on the rows; a run of two steps unless `steps` is given."""

    def train(steps=2, **settings):
        settings = {"length": 5, "batch_size": 3, "random_seed": 0, "quiet": True, **settings}
        return prompt_tuning.train(model, EXAMPLES, steps, validation=EXAMPLES, **settings)

    return train


@pytest.fixture(scope="module")
def short(train):
    return train(length=2, random_seed=1)


def test_the_command_and_python_train_the_same_bits(folder, model, monkeypatch):
    monkeypatch.chdir(folder)
    trained = prompt_tuning.train(
        model, TOY, 4, length=5, batch_size=3, random_seed=0, eval_period=2, quiet=True
    )
    assert trained.matrix.tobytes() == np.load("run/prompt_4.npy").tobytes()
    provenance = json.loads(Path("run/prompt_4.json").read_text())
    assert trained.metrics == provenance["metrics"]
    assert (
        trained.provenance["task"]["training_examples_sha256"]
        == (provenance["task"]["training_examples_sha256"])
    )


def test_the_defaults_are_those_of_the_options():
    ours = {field.name: field.default for field in dataclasses.fields(prompt_tuning.PromptTraining)}
    theirs = {field.name: field.default for field in dataclasses.fields(TrainingOptions)}
    made = {
        "model", "checkpoint_path", "task_feature_lengths", "mixture_or_task_name",
        "mixture_or_task_module", "num_devices", "extra_hooks", "given", "model_dir", "optimizer",
        "total_steps", "relative_steps", "pack",
    }  # fmt: skip
    assert theirs.keys() - ours.keys() <= made
    assert {name: ours[name] for name in theirs.keys() - made} == {
        name: theirs[name] for name in theirs.keys() - made
    }


def test_the_command_and_python_give_the_same_answers(folder, model, monkeypatch):
    monkeypatch.chdir(folder)
    flags = ["--gin_file=models/t5_1_1_small_prompt.gin", "--gin_file=task.gin"]
    given = {"PROMPT_FILE": "run", "CHECKPOINT_PATH": "model", "EVAL_OUTPUT_DIR": "evaluated"}
    settings = gin_flags(**{**TINY, **given, "PROMPT_LENGTH": None})
    assert run_main(["eval", *flags, "--gin_file=runs/prompt_eval.gin", *settings]) == 0
    lines = Path("evaluated/toy-test-predictions.jsonl").read_text().splitlines()
    answers = model.generate(TEXTS, prompt_tuning.load_prompt("run"))
    assert answers == [json.loads(line)["prediction"] for line in lines]


def test_a_prompt_that_was_saved_answers_and_scores_as_before(train, short, model, tmp_path):
    deep = train(prompt="prompt_deep", length=3)
    for prompt, ending in ((short, ".npy"), (deep, ".safetensors")):
        (path,) = prompt.save(tmp_path / "saved")
        assert path.suffix == ending
        loaded = prompt_tuning.load_prompt(path)
        assert loaded.provenance == json.loads(json.dumps(prompt.provenance))
        np.testing.assert_array_equal(
            model.score(TEXTS, TARGETS, loaded), model.score(TEXTS, TARGETS, prompt)
        )


def test_texts_with_a_prompt_each_get_the_scores_of_runs_with_one(train, short, model):
    prompts = [short, train(), train(random_seed=2)]
    alone = np.array([model.score(TEXTS, TARGETS, prompt) for prompt in prompts])
    assert len(np.unique(np.round(alone[:, 0], 3))) == 3  # Else any mixture would pass.
    numbers = [2, 0, 1, 0, 2]
    mixed = model.score(TEXTS, TARGETS, [prompts[number] for number in numbers])
    np.testing.assert_allclose(mixed, alone[numbers, range(5)], rtol=1e-5)
    answers = [model.generate(TEXTS, prompt) for prompt in prompts]
    assert model.generate(TEXTS, [prompts[number] for number in numbers]) == [
        answers[number][row] for row, number in enumerate(numbers)
    ]


def test_answers_are_decoded_as_asked_for(model, short):
    greedy = model.generate(TEXTS, short)
    beams = model.n_best(TEXTS, 3, short, alpha=0.0)
    for found in beams:
        assert 1 <= len(found) <= 3
        assert found == sorted(found, key=lambda answer: -answer.score)
    best = [found[0].text for found in beams]
    assert best == model.generate(TEXTS, short, num_beams=3, alpha=0.0)
    assert model.generate(TEXTS, short, temperature=1.0, topk=1) == greedy
    drawn = model.generate(TEXTS, short, temperature=2.0, seed=1)
    assert drawn == model.generate(TEXTS, short, temperature=2.0, seed=1) != greedy
    assert len(model.n_best(TEXTS, 4, short, temperature=1.0)[0]) == 4


def test_labels_are_ranked_by_their_scores(model, short, train):
    labels = ["this", "that", "is"]
    for prompt in (short, [short, train(), short, short, train()]):
        scores = np.stack([model.score(TEXTS, [label] * 5, prompt) for label in labels], axis=1)
        for found, row in zip(model.rank(TEXTS, labels, prompt), scores, strict=True):
            assert [one.text for one in found] == [labels[n] for n in np.argsort(-row)]
            np.testing.assert_allclose([one.score for one in found], -np.sort(-row), rtol=1e-5)


def test_an_ensemble_votes_or_takes_the_mean(model, short, train):
    prompts = [short, train(), train()]
    each = [model.generate(TEXTS, prompt) for prompt in prompts]
    assert model.generate(TEXTS, prompt_tuning.Ensemble(prompts)) == each[1]
    mean = prompt_tuning.Ensemble(prompts[1:], by="mean_logit")  # Of two equal prompts.
    assert model.generate(TEXTS, mean) == each[1]
    found = model.evaluate(EXAMPLES, mean)
    right = [answer == target for answer, target in zip(each[1], TARGETS, strict=True)]
    assert found.metrics == {"exact_match": np.mean(right)}
    assert found.predictions == each[1]


def test_a_prompt_is_trained_further(train, short):
    again = train(0, initializer=short, length=2)
    np.testing.assert_array_equal(again.matrix, short.matrix)


def test_a_run_gives_its_steps_and_ends_where_a_callback_says(model):
    seen = []
    run = prompt_tuning.PromptTraining(
        model,
        EXAMPLES,
        9,
        validation=EXAMPLES,
        initializer=plugins.init_vocab(model.embeddings, population_size=60),
        length=5,
        batch_size=3,
        quiet=True,
        callbacks=[lambda step: seen.append(step) or step.number == 3],
    )
    with pytest.raises(InputError, match="has not finished; iterate over it"):
        _ = run.trained
    assert [step.number for step in run] == [1, 2, 3]
    assert [step.evaluation is None for step in seen] == [True] * 3
    trained = run.trained
    assert trained.provenance["step"] == 3
    assert list(trained.history["eval/exact_match"]) == [0, 3]
    assert "init_vocab" in trained.provenance["config"]


def test_a_run_in_a_directory_is_resumed_by_the_same_call_only(train, tmp_path):
    directory = tmp_path / "run"
    whole = train(4)
    train(2, model_dir=directory, save_period=1)
    resumed = train(4, model_dir=directory, save_period=1)
    assert resumed.matrix.tobytes() == whole.matrix.tobytes()
    with pytest.raises(InputError, match=r"there PromptTraining.z_loss is 0.0001, and here 0.1"):
        train(4, model_dir=directory, z_loss=0.1)


def test_threads_share_a_model(train, short, model):
    other = train()
    expected = [model.generate(TEXTS, prompt) for prompt in (short, other)] * 4
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.generate, [TEXTS] * 8, [short, other] * 4))
    assert found == expected


def test_no_texts_have_no_answers(model, short):
    assert model.generate([], short) == model.n_best([], 2, short) == []
    assert model.score([], [], short).shape == (0,)


def test_a_model_that_nothing_refers_to_is_freed(folder):
    model = prompt_tuning.load_model(
        folder / "model", vocabulary=golden_data.VOCABULARY, extra_ids=38, lengths=LENGTHS
    )
    model.generate(["this"])
    array = weakref.ref(next(iter(model.frozen.params.values())))
    del model
    gc.collect()
    assert array() is None


def wide(prompt):
    return dataclasses.replace(
        prompt, name="wide.npy", matrix=np.zeros((2, 9)), parameters={"prompt": np.zeros((2, 9))}
    )


def of_another_vocabulary(prompt):
    return dataclasses.replace(prompt, provenance={"vocabulary": {"sha256": "0", "path": "v"}})


BAD = {
    "one text": (
        lambda model, prompt: model.generate("this", prompt),
        "texts is 'this', expected a list of texts",
    ),
    "no task": (
        lambda model, prompt: prompt_tuning.train(model, 5, 1),
        "the task is 5, expected a text task",
    ),
    "a dtype": (
        lambda model, prompt: prompt_tuning.load_model(model.path, dtype="float31"),
        "ACTIVATION_DTYPE is 'float31'",
    ),
    "prompts for other texts": (
        lambda model, prompt: model.generate(["this"], [prompt, prompt]),
        "there are 1 texts and 2 prompts",
    ),
    "targets for other texts": (
        lambda model, prompt: model.score(["this"], [], prompt),
        "there are 1 texts and 0 targets",
    ),
    "a wide prompt": (
        lambda model, prompt: model.generate(["this"], wide(prompt)),
        "prompt wide.npy",
    ),
    "a wide prompt among others": (
        lambda model, prompt: model.generate(["this"], [wide(prompt)]),
        "prompt wide.npy",
    ),
    "a module among plain prompts": (
        lambda model, prompt: model.generate(["this"], [dataclasses.replace(prompt, matrix=None)]),
        "is no plain prompt, and only plain prompts can share a batch",
    ),
    "a prompt of another vocabulary among others": (
        lambda model, prompt: model.generate(["this"], [of_another_vocabulary(prompt)]),
        "by its provenance it was trained with the vocabulary",
    ),
    "rows alone": (
        lambda model, prompt: prompt_tuning.train(model, EXAMPLES, 1),
        "give the rows to evaluate on",
    ),
    "a setting": (
        lambda model, prompt: prompt_tuning.train(
            model, EXAMPLES, 1, validation=EXAMPLES, batch_size=0
        ),
        "BATCH_SIZE is 0",
    ),
    "a prompt module": (
        lambda model, prompt: prompt_tuning.train(
            model, EXAMPLES, 1, validation=EXAMPLES, prompt="prompt_dep"
        ),
        "did you mean 'prompt_deep'",
    ),
    "beams and samples": (
        lambda model, prompt: model.generate(["this"], prompt, num_beams=2, temperature=1.0),
        "temperature draws answers, and num_beams",
    ),
    "fewer beams than answers": (
        lambda model, prompt: model.n_best(["this"], 4, prompt, num_beams=3, alpha=0.0),
        "4 answers to each text are asked for, and the decoding makes 3",
    ),
    "no way to answer together": (
        lambda model, prompt: prompt_tuning.Ensemble([prompt], by="mean"),
        "expected at least one, by 'vote' or 'mean_logit'",
    ),
    "scores of an ensemble": (
        lambda model, prompt: model.score(["this"], ["is"], prompt_tuning.Ensemble([prompt])),
        "give no log-likelihood",
    ),
    "no model": (lambda model, prompt: prompt_tuning.load_model("nowhere"), "model nowhere"),
    "no prompt": (lambda model, prompt: prompt_tuning.load_prompt("nowhere.npy"), "nowhere.npy"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(model, short, call, message):
    with pytest.raises(PromptTuningError, match=message) as raised:
        call(model, short)
    assert "\n" not in str(raised.value)
