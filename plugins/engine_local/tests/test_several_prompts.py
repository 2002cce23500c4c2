"""Several prompts over one frozen model: one for each example, and ensembles."""

from __future__ import annotations

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny import ROWS, TINY, gin_flags
from tiny_model import make_model

from prompt_tuning_core.commands.main import main as run_main
from prompt_tuning_engine_local.model import decoding, parts
from prompt_tuning_engine_local.model.prompt_of_each import PromptOfEach, PromptTable, VotingPrompts
from prompt_tuning_engine_local.model.prompted_model import EncoderDecoderModel
from prompt_tuning_files import prompt_files

pytestmark = [pytest.mark.slow, pytest.mark.quick_compile]

MODEL = "--gin_file=models/t5_1_1_small_prompt.gin"
NAMES = ["b", "a", "c", "b", "a"]
FILES = {"a": "a.npy", "b": "b.npy", "c": "c.npy"}
GIVEN = {**TINY, "CHECKPOINT_PATH": "model", "PROMPT_LENGTH": None}


@pytest.fixture(scope="module")
def shared(make_project):
    """A project with prompts of three lengths, and rows that each name one."""
    folder = make_project()
    rng = np.random.default_rng(0)
    for name, length in {"a": 2, "b": 5, "c": 9}.items():
        matrix = rng.normal(size=(length, 32)).astype(np.float32)
        prompt_files.save(folder / f"{name}.npy", matrix, {})
    rows = [{**row, "who": name} for row, name in zip(ROWS, NAMES, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(command, folder, *more, **macros):
    files = [MODEL, "--gin_file=task.gin", f"--gin_file=runs/prompt_{command}.gin"]
    with contextlib.chdir(folder):
        assert run_main([command, *files, *more, *gin_flags(**{**GIVEN, **macros})]) == 0


def evaluated(folder, output):
    lines = (folder / output / "toy-test-predictions.jsonl").read_text().splitlines()
    metrics = json.loads((folder / output / "toy-test-metrics.json").read_text())
    return [json.loads(line) for line in lines], metrics


@pytest.fixture(scope="module")
def alone(shared):
    """The rows and metrics of each prompt alone."""
    for name, file in FILES.items():
        run("eval", shared, PROMPT_FILE=file, EVAL_OUTPUT_DIR=f"alone_{name}")
    return {name: evaluated(shared, f"alone_{name}") for name in FILES}


def answers(rows):
    return [row["prediction"] for row in rows]


def test_each_example_gets_the_answer_of_the_prompt_that_it_names(shared, alone):
    run("eval", shared, PROMPT_FILES=FILES, PROMPT_COLUMN="who", EVAL_OUTPUT_DIR="each")
    rows, _ = evaluated(shared, "each")
    assert [row["who"] for row in rows] == NAMES
    expected = [answers(alone[name][0])[number] for number, name in enumerate(NAMES)]
    assert answers(rows) == expected
    given = {"INFER_INPUT_FILE": "rows.jsonl", "INFER_OUTPUT_DIR": "inferred"}
    run("infer", shared, PROMPT_FILES=FILES, PROMPT_COLUMN="who", **given)
    lines = (shared / "inferred" / "rows.jsonl-predictions.jsonl").read_text().splitlines()
    assert answers(map(json.loads, lines)) == expected


def test_an_ensemble_is_scored_with_its_members(shared, alone):
    run("eval", shared, PROMPT_FILES=FILES, EVAL_OUTPUT_DIR="together")
    rows, metrics = evaluated(shared, "together")
    for name, (alone_rows, alone_metrics) in alone.items():
        assert [row["predictions"][name] for row in rows] == answers(alone_rows)
        assert metrics[f"{name}/exact_match"] == alone_metrics["exact_match"]
    for number, row in enumerate(rows):
        votes = [answers(alone[name][0])[number] for name in FILES]
        assert row["prediction"] == max(votes, key=votes.count)
    for name in ("vote", "mean_logit"):
        column = {"vote": "prediction"}.get(name, name)
        right = np.mean([row[column] == row["targets"] for row in rows])
        assert metrics[f"{name}/exact_match"] == pytest.approx(right)


def test_the_answers_of_an_ensemble_to_a_file_are_those_of_the_vote(shared, alone):
    given = {"INFER_INPUT_FILE": "rows.jsonl", "INFER_OUTPUT_DIR": "voted"}
    run("infer", shared, PROMPT_FILES=FILES, **given)
    lines = (shared / "voted" / "rows.jsonl-predictions.jsonl").read_text().splitlines()
    for number, row in enumerate(map(json.loads, lines)):
        assert row["predictions"] == {n: answers(alone[n][0])[number] for n in FILES}
        votes = list(row["predictions"].values())
        assert row["prediction"] == max(votes, key=votes.count)


def test_several_answers_have_their_scores(shared):
    given = {"INFER_INPUT_FILE": "rows.jsonl", "INFER_OUTPUT_DIR": "ranked", "NUM_ANSWERS": 2}
    beams = "--gin_file=models/decoding/beam_search.gin"
    run("infer", shared, beams, PROMPT_FILES=FILES, PROMPT_COLUMN="who", **given)
    lines = (shared / "ranked" / "rows.jsonl-predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["who"] for row in rows] == NAMES
    assert {len(row["predictions"]) for row in rows} >= {2}
    for row in rows:
        scores = [answer["score"] for answer in row["predictions"]]
        assert scores == sorted(scores, reverse=True)
        assert row["prediction"] == row["predictions"][0]["text"]


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ({"PROMPT_FILES": FILES, "NUM_ANSWERS": 2}, "vote on one answer; set NUM_ANSWERS = 1"),
        ({"PROMPT_FILE": "a.npy", "NUM_ANSWERS": 2}, "the decoding makes 1; raise its number"),
    ],
)
def test_too_many_answers_are_refused(shared, run_here, macros, message):
    files = [MODEL, "--gin_file=task.gin", "--gin_file=runs/prompt_infer.gin"]
    given = {**GIVEN, "INFER_INPUT_FILE": "rows.jsonl", "INFER_OUTPUT_DIR": "refused"}
    finished = run_here(["infer", *files, *gin_flags(**{**given, **macros})], shared)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert not (shared / "refused").exists()


def test_a_batch_in_parts_has_the_answers_and_scores_of_the_whole_batch(golden, monkeypatch):
    rng = np.random.default_rng(2)
    table = PromptTable.of([rng.normal(size=(length, 32)) for length in (2, 5)])
    tokens = rng.integers(2, 60, (4, 6), np.int32)
    targets = rng.integers(2, 60, (4, 3), np.int32)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones((4, 3), np.float32),
    }
    frozen, base = golden("tiny_params"), make_model()
    found = {}
    for number in (1, 2):
        monkeypatch.setattr(parts, "quickest_number", lambda *shape, number=number: number)
        model = EncoderDecoderModel(
            base.config, base.vocabulary, PromptOfEach, decode_fn=decoding.beam_search
        )
        parameters = table.parameters(np.array([1, 0, 0, 1]))
        answers = model.compiled_generate(parameters, frozen, tokens, max_length=3)
        found[number] = answers, model.compiled_score(parameters, frozen, batch)
    np.testing.assert_array_equal(found[2][0].ids, found[1][0].ids)
    for mine, whole in zip(jax.tree.leaves(found[2]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-5)


def test_the_mean_of_logits_is_that_of_the_prompts_alone(golden):
    model = make_model()
    frozen = golden("tiny_params")
    rng = np.random.default_rng(1)
    matrices = rng.normal(size=(3, 5, 32)).astype(np.float32)
    tokens = np.array([[5, 9, 4, 1], [7, 1, 0, 0]])
    # By hand: at each step, the logits of each prompt for what has been answered so far.
    logits = jax.jit(
        lambda prompt, ids: model.network.apply(
            {
                "params": traverse_util.unflatten_dict(
                    {**frozen, "encoder/prompt/prompt/prompt": prompt}, sep="/"
                )
            },
            tokens,
            jnp.pad(ids[:, :-1], ((0, 0), (1, 0))),
            ids,
        )
    )
    expected = np.zeros((2, 4), np.int32)
    for position in range(4):
        # A target of 1 has the position decoded; its own id is of no effect there.
        ids = np.where(np.arange(4) <= position, np.maximum(expected, 1), 0)
        mean = np.mean([logits(matrix, ids)[:, position] for matrix in matrices], axis=0)
        ended = (expected == 1).any(axis=1)
        expected[:, position] = np.where(ended, 0, mean.argmax(axis=1))
    several = EncoderDecoderModel(model.config, model.vocabulary, PromptOfEach)
    parameters = PromptTable.of(matrices).parameters(np.tile(np.arange(3), 2))
    found = several.best_ids(parameters, frozen, np.repeat(tokens, 3, axis=0), 4, members=3)
    np.testing.assert_array_equal(found, expected)


def test_beams_of_an_ensemble_are_those_of_the_mean():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(3, 6, 6), scale=2), jnp.float32)

    def problem(table):
        members = len(table)

        def step(tokens, history, position):
            n = len(tokens) // (2 * members)
            member = jnp.arange(len(tokens)) // n % members
            history = history.at[:, position].set(tokens)
            # Logits depend on all ids so far, so that a wrong row of the cache shows.
            return table[member, history.sum(axis=1) % 6], history

        return decoding.Problem(
            step=step,
            cache=jnp.zeros((2 * members, 4), jnp.int32),
            spread=lambda cache, n: jnp.repeat(cache, n, axis=0),
            gather=lambda cache, rows: cache[rows],
            batch_size=2 * members,
            max_length=4,
            eos_id=1,
        )

    found = decoding.beam_search(decoding.joint(problem(table), 3), num_decodes=3)
    expected = decoding.beam_search(problem(table.mean(axis=0, keepdims=True)), num_decodes=3)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_of_equally_many_votes_the_first_prompt_s_counts():
    answers = np.array([[[1], [1], [3]], [[2], [2], [4]], [[3], [2], [4]]])
    np.testing.assert_array_equal(VotingPrompts.elected(answers), [[1], [2], [4]])


BAD = [
    ({"PROMPT_COLUMN": "who", "PROMPT_FILE": "a.npy"}, "PROMPT_FILES is None; give the prompts"),
    ({"PROMPT_FILES": {"a": "a.npy"}, "PROMPT_FILE": "a.npy"}, "leave one of them out"),
    ({"PROMPT_FILES": {}}, "PROMPT_FILES is {}, expected a mapping of names"),
    ({"PROMPT_FILES": {"a": "a.npy"}, "PROMPT_COLUMN": "whom"}, "no column 'whom'"),
    (
        {"PROMPT_FILES": {"a": "a.npy", "bb": "b.npy"}, "PROMPT_COLUMN": "who"},
        "rows.jsonl:1: the column 'who' names the prompt 'b', which PROMPT_FILES lacks",
    ),
    ({"PROMPT_FILES": {"a": "a.npy", "b": "nowhere.npy"}}, "prompt nowhere.npy"),
    ({"PROMPT_FILES": {"a": "a.npy", "w": "wide.npy"}}, "wide.npy"),
    ({"PROMPT_FILES": {"a": "a.npy", "vote": "b.npy"}}, "has the name 'vote'"),
]


@pytest.mark.parametrize(("macros", "message"), BAD)
def test_bad_input_is_one_line_before_the_model_is_read(shared, run_here, macros, message):
    np.save(shared / "wide.npy", np.zeros((2, 9), np.float32))
    files = [MODEL, "--gin_file=task.gin", "--gin_file=runs/prompt_eval.gin"]
    given = {**GIVEN, "CHECKPOINT_PATH": "nowhere", "EVAL_OUTPUT_DIR": "bad"}
    finished = run_here(["eval", *files, *gin_flags(**{**given, **macros})], shared)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (shared / "bad").exists()
