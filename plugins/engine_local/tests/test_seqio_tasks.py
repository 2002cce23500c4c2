"""Tasks that are registered with seqio, in the embedded engine; a whole run is in the demo's tests.

They run in this process, since importing seqio takes long, and skip where it is missing.
"""

from __future__ import annotations

import warnings

import golden_data
import jax
import numpy as np
import pytest
from tiny_model import make_model

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.data import batching, find_task
from prompt_tuning_engine_local.data.engine_task import Reading
from prompt_tuning_engine_local.runs.devices import Placement
from prompt_tuning_engine_local.runs.evaluation import Predictor, metrics_of
from prompt_tuning_files.vocabularies import SentencePieceVocabulary
from prompt_tuning_tasks.feature_lengths import FeatureLengths

pytestmark = pytest.mark.seqio

VOCABULARY = golden_data.VOCABULARY
EXTRA_IDS = 38
LINES = ["this is a test\tis", "that was sad\tbad", "this is that\tis", "a bad test\tbad"]
LENGTHS = FeatureLengths(12, 6)


def reading(lengths=LENGTHS, strict=False, seed=0, **vocabulary):
    ours = SentencePieceVocabulary(VOCABULARY, **{"extra_ids": EXTRA_IDS, **vocabulary})
    return Reading(ours, lengths, strict, seed)


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio", reason="needs the extra seqio of the local engine")


@pytest.fixture
def add(seqio, tmp_path):
    """Registers a task of lines of text, until the test has ended."""
    (tmp_path / "lines.tsv").write_text("\n".join(LINES) + "\n")
    (tmp_path / "empty.tsv").write_text("")
    source = seqio.TextLineDataSource(
        {"train": str(tmp_path / "lines.tsv"), "test": str(tmp_path / "empty.tsv")}
    )
    vocabulary = seqio.SentencePieceVocabulary(str(VOCABULARY), EXTRA_IDS)

    def parse(dataset):
        import tensorflow as tf

        def columns(line):
            inputs, targets = tf.unstack(tf.strings.split(line, "\t"), num=2)
            return {"inputs": inputs, "targets": targets}

        return dataset.map(columns)

    added = []

    def add_task(name, *more, vocabulary=vocabulary, features=("inputs", "targets"), **changes):
        before, after = ((), more) if more else ((), (seqio.preprocessors.append_eos,))
        task = seqio.TaskRegistry.add(
            name,
            **{
                "source": source,
                "preprocessors": [parse, *before, seqio.preprocessors.tokenize, *after],
                "output_features": {name: seqio.Feature(vocabulary) for name in features},
                **changes,
            },
        )
        added.append((seqio.TaskRegistry, name))
        return task

    def add_mixture(name, rates, **more):
        seqio.MixtureRegistry.add(name, list(rates.items()), **more)
        added.append((seqio.MixtureRegistry, name))

    add_task.mixture = add_mixture
    yield add_task
    for registry, name in added:
        registry.remove(name)


def read(name, split="train", **how):
    (component,) = find_task.find(name, None).components(split)
    return component.read(split, reading(**how))


def test_examples_are_what_the_preprocessors_make(add):
    add("lines")
    split = read("lines")
    encode = reading().vocabulary.encode
    for line, example, text in zip(LINES, split.tokenized, split.examples, strict=True):
        inputs, targets = line.split("\t")
        assert example.inputs.tolist() == [*encode(inputs), 1]
        assert example.targets.tolist() == [*encode(targets), 1]
        assert (text.inputs, text.targets) == (inputs, targets)


@pytest.mark.parametrize("cutting", ["append_eos", "append_eos_after_trim"])
def test_what_is_too_long_is_said_though_the_task_cuts_it_itself(seqio, add, cutting):
    add("lines", getattr(seqio.preprocessors, cutting))
    with pytest.warns(UserWarning, match=r"'train': 2 of 4 inputs are longer than 9 ids") as said:
        split = read("lines", lengths=FeatureLengths(9, 6))
    assert len(said) == 1
    for example in split.tokenized[:2]:
        assert len(example.inputs) == 9
        assert (example.inputs[-1] == 1) == (cutting == "append_eos_after_trim")
    with pytest.raises(InputError, match=r"example 1: the inputs have 10 ids and TASK_FEATURE_LE"):
        read("lines", lengths=FeatureLengths(9, 6), strict=True)


def test_what_preprocessors_draw_follows_from_the_seed(seqio, add):
    import tensorflow as tf

    @seqio.map_over_dataset(num_seeds=1)
    def with_a_seed(example, seed):
        start = tf.random.stateless_uniform([], seed, 0, 4, tf.int32)
        return {**example, "inputs": example["inputs"][start:]}

    def without(dataset):
        def cut(example):
            return {**example, "inputs": example["inputs"][tf.random.uniform([], 0, 4, tf.int32) :]}

        return dataset.repeat(20).map(cut, num_parallel_calls=tf.data.AUTOTUNE)

    add("drawn", without, with_a_seed, seqio.preprocessors.append_eos)
    checksums = [
        batching.checksum([read("drawn", seed=seed).tokenized]) for seed in (0, 0, 1, 2**32 - 1)
    ]
    assert checksums[0] == checksums[1]
    assert len(set(checksums)) == 3


def test_a_task_of_another_vocabulary_is_refused(seqio, add, tmp_path):
    add("lines")
    with pytest.raises(InputError, match=r"has 64 ids \(38 extra ones among them\), and the model"):
        read("lines", extra_ids=10)
    add("bytes", vocabulary=seqio.ByteVocabulary())
    with pytest.raises(InputError, match=r"'inputs' has a ByteVocabulary, and the model's vocabul"):
        read("bytes")
    add("ascending", vocabulary=seqio.SentencePieceVocabulary(
        str(VOCABULARY), EXTRA_IDS, reverse_extra_ids=False
    ))  # fmt: skip
    with pytest.raises(InputError, match=r"'▁<extra_id_0>' for the id 26, .*<extra_id_37>'"):
        read("ascending")
    add("missing", vocabulary=seqio.SentencePieceVocabulary(str(tmp_path / "none.model")))
    with pytest.raises(InputError, match=r"none\.model cannot be read: NotFoundError"):
        read("missing")


def test_what_a_task_must_have(seqio, add):
    add("language", features=("targets",))
    with pytest.raises(InputError, match="task 'language' has no feature 'inputs'; the engine nee"):
        read("language")
    add("lines")
    with pytest.raises(InputError, match="task 'lines' has no split 'trian'; did you mean 'train'"):
        read("lines", "trian")
    with pytest.raises(InputError, match="task 'lines': split 'test' is empty"):
        read("lines", "test")
    add("gone", source=seqio.TextLineDataSource({"train": "/nowhere.tsv"}))
    with pytest.raises(InputError, match=r"task 'gone', split 'train': seqio cannot read it: "):
        read("gone")
    add("untokenized", preprocessors=[seqio.preprocessors.rekey])
    with pytest.raises(InputError, match="'train': seqio cannot read it: "):
        read("untokenized")

    def endless(dataset):
        return dataset.repeat()

    add("endless", endless)
    with pytest.raises(InputError, match="seqio cannot read it: ValueError: it has no end"):
        read("endless")

    def peculiar(targets, predictions, aux_values):
        return {}

    add("auxiliary", metric_fns=[peculiar])
    with pytest.raises(InputError, match="the metric peculiar needs PREDICTION_WITH_AUX, and the"):
        read("auxiliary")
    add("odd", metric_fns=[lambda a, b: {}])
    with pytest.raises(InputError, match="task 'odd': ValueError: Metric functions must have posi"):
        read("odd")


def test_an_unknown_name_is_answered_with_the_nearest_of_all(add):
    add("lines")
    with pytest.raises(InputError, match=r"unknown task 'lnies'; did you mean 'lines'\?"):
        find_task.find("lnies", None)


def test_mixtures_have_the_rates_of_seqio(add):
    add("one")
    add("two")
    add("three", source=add("other").source, metric_fns=[])
    add.mixture("inner", {"two": 3.0, "three": 1.0})
    add.mixture("outer", {"one": lambda task: 5, "inner": 4, "other": 0})
    task = find_task.find("outer", None)
    assert task.is_mixture
    drawn = find_task.drawn_from(task, "train")
    assert {component.name: rate for component, rate in drawn} == {"one": 5, "two": 3, "three": 1}
    assert [c.name for c in task.components("train")] == ["one", "other", "three", "two"]

    add.mixture("none", {"one": 0})
    with pytest.raises(InputError, match="mixture 'none': all of its rates are 0"):
        find_task.drawn_from(find_task.find("none", None), "train")
    add.mixture("failing", {"one": lambda task: 1 / 0})
    with pytest.raises(InputError, match="the rate of 'one' cannot be computed: ZeroDivisionError"):
        find_task.drawn_from(find_task.find("failing", None), "train")
    add.mixture("own", {"one": 1}, sample_fn=lambda datasets, rates, seed: datasets[0])
    with pytest.warns(UserWarning, match="mixture 'own' has a sample_fn of its own, which this"):
        find_task.find("own", None)


def test_tasks_of_a_mixture_without_the_split_are_left_out_and_named(seqio, add, tmp_path):
    add("both")
    add("only_train", source=seqio.TextLineDataSource({"train": str(tmp_path / "lines.tsv")}))
    add.mixture("mixed", {"both": 1, "only_train": 1})
    task = find_task.find("mixed", None)
    assert len(task.components("train")) == 2
    with pytest.warns(UserWarning, match="mixture 'mixed': skips only_train, without a split"):
        assert [component.name for component in task.components("test")] == ["both"]
    with pytest.raises(InputError, match="mixture 'mixed' has no split 'validation'"):
        task.components("validation")


@pytest.fixture
def predictor(golden):
    return Predictor(make_model(), golden("tiny_params"), LENGTHS, 3, Placement())


def first_letter(text, example, is_target):
    assert "inputs_pretokenized" in example
    return text[:1]


def share_equal(targets, predictions):
    return {"share": np.mean([t == p for t, p in zip(targets, predictions, strict=True)])}


def mean_score(targets, scores):
    assert len(targets) == len(scores)
    return {"mean_score": np.mean(scores)}


def test_metrics_are_those_of_seqios_evaluator(seqio, add, golden, predictor):
    add("scored", postprocess_fn=first_letter, metric_fns=[share_equal, mean_score])
    task = find_task.find("scored", None)
    prompt = golden("tiny_prompt")
    (prepared,) = [predictor.prepare(c, "train") for c in task.components("train")]
    evaluation = predictor.evaluate_prepared(prepared, prompt)
    values = metrics_of(task, [evaluation])
    assert values == evaluation.metrics
    assert values.keys() == {"share", "mean_score"}

    # Each example for itself, unbucketed.
    model, frozen = make_model(), predictor.frozen
    whole = batching.padded_lengths(LENGTHS, bucketing=False)
    ids, scores = [], []
    generate, loss = jax.jit(model.generate, static_argnums=3), jax.jit(model.loss)
    for example in prepared.tokenized:
        batch = batching.make_batch([example], whole)
        decoded = generate(prompt, frozen, batch["encoder_input_tokens"], 6)
        ids.append(np.asarray(decoded.ids)[0, 0])
        # Without z-loss and label smoothing the loss is the negative log-likelihood.
        scores.append(-float(loss(prompt, frozen, batch, None)[0]))
    np.testing.assert_allclose(evaluation.scores, scores, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = seqio.Evaluator(
            "scored",
            seqio.EncDecFeatureConverter(pack=False),
            "train",
            sequence_length={"inputs": 12, "targets": 6},
        )
        future, _ = evaluator.evaluate(
            compute_metrics=True,
            predict_fn=lambda dataset: list(enumerate(ids)),
            score_fn=lambda dataset: list(enumerate(scores)),
        )
    assert future.result()["scored"] == pytest.approx(values, rel=1e-5)


def test_what_metrics_may_return(seqio, add, golden, predictor):
    def evaluate(name, *functions):
        add(name, metric_fns=functions)
        (component,) = find_task.find(name, None).components("train")
        return predictor.evaluate_prepared(predictor.prepare(component, "train"), None).metrics

    def scalar(targets, predictions):
        return {"scalar": seqio.metrics.Scalar(0.5)}

    def text(targets, predictions):
        return {"text": seqio.metrics.Text("much"), "number": 1}

    def word(targets, predictions):
        return {"word": "much"}

    assert evaluate("no_metrics") == {}
    assert evaluate("scalar", scalar) == {"scalar": 0.5}
    assert evaluate("text", text) == {"number": 1.0}
    with pytest.raises(InputError, match=r"the metric word of task 'word' returned .*'much'"):
        evaluate("word", word)
    with pytest.raises(InputError, match="two metrics return 'scalar'; the second is"):
        evaluate("twice", scalar, scalar)


def test_infer_needs_a_template(add):
    from prompt_tuning_engine_local.runs import inference

    add("lines")
    with pytest.raises(InputError, match="MIXTURE_OR_TASK_NAME 'lines' is seqio's, whose preproc"):
        inference._with_a_template(find_task.find("lines", None))
