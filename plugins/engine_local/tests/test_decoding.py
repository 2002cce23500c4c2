"""Decode functions, on logits that the tests choose and on the tiny model's."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_input import array
from bad_input import evaluation as command
from tiny_model import make_model

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.model import decoding
from prompt_tuning_engine_local.model.decoding import Problem
from prompt_tuning_engine_local.runs import evaluation
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_tasks.feature_lengths import FeatureLengths

EOS, V = 1, 8
PROBABILITIES = np.array([0, 0, 0.4, 0.3, 0.15, 0.1, 0.05, 0])


def problem(probabilities, batch=1, length=1):
    """Makes a problem with the same probabilities at every step of each example."""
    logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
    return Problem(
        lambda tokens, cache, position: (jnp.tile(logits, (len(tokens), 1)), cache),
        (),
        lambda cache, n: cache,
        lambda cache, rows: cache,
        batch,
        length,
        EOS,
        jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(batch)),
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # A temperature of 0.5 squares probabilities.
        ({"temperature": 0.5, "topk": 2}, np.array([0, 0, 16, 9, 0, 0, 0, 0]) / 25),
        # 0.4 + 0.3 are not enough, and 0.85 are.
        ({"topp": 0.75}, np.array([0, 0, 0.4, 0.3, 0.15, 0, 0, 0]) / 0.85),
        ({"topk": 1}, np.array([0, 0, 1, 0, 0, 0, 0, 0])),
        ({"temperature": 0}, np.array([0, 0, 1, 0, 0, 0, 0, 0])),
    ],
)
def test_ids_are_drawn_with_their_probabilities(settings, expected):
    sample = functools.partial(decoding.temperature_sample, num_decodes=100, **settings)
    found = jax.jit(lambda: sample(problem(PROBABILITIES, batch=100)))()
    drawn = np.asarray(found.ids).ravel()
    frequencies = np.bincount(drawn, minlength=V) / drawn.size
    # Five standard deviations of 10,000 draws; the seed is fixed.
    np.testing.assert_allclose(frequencies, expected, atol=0.025)
    np.testing.assert_array_equal(frequencies[expected == 0], 0)
    np.testing.assert_allclose(found.scores.ravel(), np.log(PROBABILITIES[drawn]), rtol=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_a_beam_search_ends_once_no_live_sequence_can_win():
    # EOS has 0.9: after it, two sequences of one id more can take the places, and none of two.
    steps = [0]

    def count(position):
        steps[0] = max(steps[0], int(position) + 1)

    given = problem([0, 0.9, 0.06, 0.04, 0, 0, 0, 0], length=50)

    def step(tokens, cache, position):
        jax.debug.callback(count, position)
        return given.step(tokens, cache, position)

    found = decoding.beam_search(dataclasses.replace(given, step=step), num_decodes=2)
    jax.effects_barrier()
    np.testing.assert_array_equal(found.ids[0, :, :3], [[1, 0, 0], [2, 1, 0]])
    penalty = (7 / 6) ** 0.6
    np.testing.assert_allclose(
        found.scores[0], [np.log(0.9), np.log(0.06 * 0.9) / penalty], rtol=1e-5
    )
    assert steps[0] < 10


def test_scores_that_nothing_uses_are_not_computed():
    def compiled(part):
        return jax.jit(lambda: part(decoding.greedy(problem(PROBABILITIES, 2, 4)))).lower()

    ids = compiled(lambda found: found.ids).compile().as_text()
    both = compiled(lambda found: found).compile().as_text()
    carried = "f32[2]"  # The scores of 2 rows, from step to step.
    assert carried in both
    assert carried not in ids


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("beam_search", {"num_decodes": 0}, "num_decodes is 0, expected a whole number of at le"),
        ("beam_search", {"alpha": "x"}, "alpha is 'x', expected a number of at least 0"),
        ("beam_search", {"alpha": float("nan")}, "alpha is nan, expected a number"),
        ("temperature_sample", {"num_decodes": 1.5}, "num_decodes is 1.5, expected a whole num"),
        ("temperature_sample", {"temperature": -1}, "temperature is -1, expected a number of at"),
        ("temperature_sample", {"topp": 1.5}, "topp is 1.5, expected a number from 0 to 1"),
        ("temperature_sample", {"topk": -1}, "topk is -1, expected a whole number of at least 0"),
        ("temperature_sample", {"topk": 65}, "topk is 65, expected at most 64, the model's num"),
        ("temperature_sample", {"topk": 2, "topp": 0.5}, "has topk 2 and topp 0.5, and draws fro"),
        ("temperature_sample", {"seed": 2**32}, "seed is 4294967296, expected a whole number"),
        ("rank_classification", {"labels": []}, "labels is [], expected a list of texts"),
        ("rank_classification", {"labels": "this"}, "labels is 'this', expected a list of texts"),
        ("rank_classification", {"labels": ["this", " "]}, "expected a list of texts"),
        ("rank_classification", {"labels": ["this", "this "]}, "'this' and 'this ' of RANK_LABELS"),
        (
            "rank_classification",
            {"labels": ["this", "that was sad"]},
            "'that was sad' of RANK_LABELS has ",
        ),
        ("rank_classification", {"labels": ["日本"]}, "part of the label '日本' of RANK_LABELS"),
    ],
)
def test_a_bad_parameter_is_refused_before_a_model_is_read(function, settings, message):
    decode_fn = functools.partial(getattr(decoding, function), **settings)
    with pytest.raises(InputError) as error:
        make_model(decode_fn=decode_fn).check_decoding(6)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda problem: decoding.greedy(problem).ids,
        lambda problem: decoding.greedy(problem)._replace(scores=jnp.zeros(2)),
    ],
)
def test_a_decode_function_of_ones_own_must_return_decoded(wrong):
    with pytest.raises(InputError, match=r"decode_fn returned .*, expected decoding\.Decoded of"):
        make_model(decode_fn=wrong).check_decoding(6)


def test_labels_are_ranked_by_their_scores(golden):
    labels = ["this", "that", "sad", "was"]
    model = make_model(decode_fn=functools.partial(decoding.rank_classification, labels=labels))
    prompt, frozen = golden("tiny_prompt"), golden("tiny_params")
    inputs = golden("forward_short")["encoder_input_tokens"]
    with jax.default_matmul_precision("highest"):
        found = jax.jit(model.generate, static_argnums=3)(prompt, frozen, inputs, 8)
        score = jax.jit(model.score)
        for number in range(len(labels)):
            targets = np.asarray(found.ids[:, number])
            batch = {
                "encoder_input_tokens": inputs, "decoder_target_tokens": targets,
                "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
                "decoder_loss_weights": (targets > 0).astype(np.float32),
            }  # fmt: skip
            expected = score(prompt, frozen, batch)
            np.testing.assert_allclose(found.scores[:, number], expected, rtol=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    for row in np.asarray(found.ids):
        assert sorted(map(model.vocabulary.decode, row)) == sorted(labels)


def test_answers_drawn_do_not_depend_on_the_batch(monkeypatch):
    # 40 equal texts, answered one by one in parts of 32 and five at once.
    texts = ["this is"] * 40
    model = make_model()
    given = problem(np.ones(64) / 64)

    def answers(batch_size, seed):
        def best_ids(prompt, frozen, tokens, max_length, keys, **defaults):
            size = {"batch_size": len(tokens), "max_length": max_length}
            one = dataclasses.replace(given, keys=keys, **size)
            return decoding.temperature_sample(one, seed=seed).ids[:, 0]

        monkeypatch.setattr(model, "compiled_best_ids", best_ids)
        lengths, placement = FeatureLengths(12, 2), Placement(1)
        predictor = evaluation.Predictor(model, {}, lengths, batch_size, placement)
        parts = list(predictor.predict_in_parts(texts, None))
        assert len(parts) == (2 if batch_size == 1 else 1)
        return [answer for part in parts for answer in part]

    one_by_one = answers(1, seed=0)
    assert len(set(one_by_one)) > 20
    assert answers(5, seed=0) == one_by_one != answers(5, seed=1)


@pytest.mark.slow
def test_an_evaluation_chooses_among_labels(project, golden, run_here):
    (project / "prompt.npy").write_bytes(
        array(golden("tiny_prompt")["encoder/prompt/prompt/prompt"])
    )
    flags = command("eval", RANK_LABELS=["this", "that"])
    finished = run_here([*flags, "--gin_file=models/decoding/rank_classification.gin"], project)
    assert finished.returncode == 0, finished.stderr
    lines = (project / "out" / "toy-test-predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["prediction"] for line in lines} <= {"this", "that"}
