"""Bucketing changes how much is computed, not what: losses and answers are the same."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from tiny_model import make_model

from prompt_tuning_core.combine import PLACES
from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching
from prompt_tuning_engine_local.data.batching import TokenizedExample
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor
from prompt_tuning_tasks import Example, TextTask
from prompt_tuning_tasks.feature_lengths import FeatureLengths

LENGTHS = FeatureLengths(64, 32)


@pytest.fixture(scope="module")
def params(golden):
    return golden("tiny_prompt"), golden("tiny_params")


def random_examples(count):
    rng = np.random.default_rng(0)

    def ids(most):
        # Short texts are frequent, as in life.
        length = min(most, 1 + int(rng.gamma(2, most / 8)))
        return np.append(rng.integers(3, 64, length - 1), 1).astype(np.int32)

    return [TokenizedExample(ids(LENGTHS.inputs), ids(LENGTHS.targets)) for _ in range(count)]


def key(example):
    return (*example.inputs.tolist(), -1, *example.targets.tolist())


def rows_of(batch):
    for inputs, targets in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        yield TokenizedExample(inputs[inputs > 0], targets[targets > 0])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.slow
def test_every_example_has_the_loss_that_it_has_unbucketed(params, place):
    model = make_model(place, z_loss=1e-4)
    prompt, frozen = params

    @jax.jit
    def each_loss(batch):
        return jax.vmap(
            lambda example: model.loss(
                prompt, frozen, jax.tree.map(lambda x: x[None], example), None
            )[0]
        )(batch)

    examples = random_examples(75)
    whole = batching.padded_lengths(LENGTHS, bucketing=False)
    expected = {
        key(example): float(loss)
        for start in range(0, 75, 15)
        for example, loss in zip(
            examples[start : start + 15],
            each_loss(batching.make_batch(examples[start : start + 15], whole)),
            strict=True,
        )
    }
    batches = batching.training_batches([examples], LENGTHS, 15, seed=0)
    found, shapes = {}, set()
    for batch in itertools.islice(batches, 5):
        found |= zip(map(key, rows_of(batch)), map(float, each_loss(batch)), strict=True)
        shapes.add(batch["encoder_input_tokens"].shape)
    assert len(shapes) > 1
    assert found.keys() == expected.keys()
    for example, loss in found.items():
        assert loss == pytest.approx(expected[example], rel=1e-5)


def test_a_normalizer_that_counts_padding_gets_it():
    assert not make_model().counts_padding
    assert not make_model(loss_normalizing_factor=100.0).counts_padding
    assert make_model(loss_normalizing_factor="num_total_target_tokens").counts_padding


TEXTS = ["this is a test", "a", "that was sad " * 3, "", "this " * 9, "is", "bad test " * 2]


@pytest.mark.parametrize("with_prompt", [True, False])
@pytest.mark.slow
def test_answers_are_those_without_bucketing_in_order(params, with_prompt):
    prompt, frozen = params
    answers, counts = {}, []
    for bucketing in (True, False):
        predictor = Predictor(make_model(), frozen, LENGTHS, 3, Placement(), bucketing=bucketing)
        answers[bucketing] = predictor.predict(
            TEXTS, prompt if with_prompt else None, progress=counts.append
        )
    assert answers[True] == answers[False]
    assert len(set(answers[True])) > 1
    assert counts == [3, 6, 7] * 2


def test_own_metrics_and_what_they_may_return(params):
    prompt, frozen = params
    predictor = Predictor(make_model(), frozen, LENGTHS, 3, Placement())
    seen = []

    def lengths(targets, predictions):
        seen.append((targets, predictions))
        return {"longest": np.float32(max(map(len, targets)))}

    examples = [Example("this is a test", "that"), Example("is", "this")]
    task = TextTask("t", {"test": [lambda: [vars(e) for e in examples]]}, metrics=[lengths])
    result = predictor.evaluate(task, "test", prompt)
    assert result.metrics == {"longest": 4.0}
    assert seen == [(["that", "this"], list(result.predictions))]

    task = TextTask("t", {}, metrics=["exact_match", lambda targets, predictions: 0.5])
    with pytest.raises(InputError, match=r"the metric <lambda> returned 0\.5; expected a mapping"):
        predictor.evaluate_examples(task, examples, prompt, "test")
