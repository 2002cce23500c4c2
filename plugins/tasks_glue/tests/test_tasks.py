"""The tasks, from examples as TensorFlow Datasets has them to metrics; skipped without seqio."""

from __future__ import annotations

import warnings

import golden_data
import pytest

pytestmark = pytest.mark.seqio

VOCABULARY = golden_data.VOCABULARY

# For each task: an example of TensorFlow Datasets, its inputs after T5's prefix, its target.
TEXTS = {
    "glue_cola_v200": (
        {"sentence": "They drank the pub.", "label": 0, "idx": 3},
        ("cola ", "sentence: They drank the pub."),
        "unacceptable",
    ),
    "glue_sst2_v200": (
        {"sentence": "a joy", "label": 1, "idx": 3},
        ("sst2 ", "sentence: a joy"),
        "positive",
    ),
    "glue_mrpc_v200": (
        {"sentence1": "He left.", "sentence2": "He went.", "label": 1, "idx": 3},
        ("mrpc ", "sentence1: He left. sentence2: He went."),
        "equivalent",
    ),
    "glue_qqp_v200": (
        {"question1": "How?", "question2": "Why?", "label": 0, "idx": 3},
        ("qqp ", "question1: How? question2: Why?"),
        "not_duplicate",
    ),
    "glue_stsb_v200": (
        {"sentence1": "A dog.", "sentence2": "A cat.", "label": 1.75, "idx": 3},
        ("stsb ", "sentence1: A dog. sentence2: A cat."),
        "1.8",
    ),
    "glue_mnli_v200": (
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "idx": 3},
        ("mnli ", "hypothesis: It is wet. premise: It rains."),
        "entailment",
    ),
    "glue_mnli_matched_v200": (
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 1, "idx": 3},
        ("mnli ", "hypothesis: It is wet. premise: It rains."),
        "neutral",
    ),
    "glue_mnli_mismatched_v200": (
        {"premise": "It rains.", "hypothesis": "It is dry.", "label": 2, "idx": 3},
        ("mnli ", "hypothesis: It is dry. premise: It rains."),
        "contradiction",
    ),
    "glue_qnli_v200": (
        {"question": "Who?", "sentence": "Ada did.", "label": 0, "idx": 3},
        ("qnli ", "question: Who? sentence: Ada did."),
        "entailment",
    ),
    "glue_rte_v200": (
        {"sentence1": "It rains.", "sentence2": "It is dry.", "label": 1, "idx": 3},
        ("rte ", "sentence1: It rains. sentence2: It is dry."),
        "not_entailment",
    ),
    "glue_wnli_v200": (
        {"sentence1": "I hit it.", "sentence2": "I hit the pin.", "label": 1, "idx": 3},
        ("wnli ", "sentence1: I hit it. sentence2: I hit the pin."),
        "entailment",
    ),
    "glue_ax_v200": (
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": -1, "idx": 3},
        ("mnli ", "hypothesis: It is wet. premise: It rains."),
        "<unk>",
    ),
    "super_glue_boolq_v102": (
        {"question": "is it", "passage": "It is.", "label": 1, "idx": 3},
        ("boolq ", "passage: It is. question: is it"),
        "True",
    ),
    "super_glue_cb_v102": (
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 2, "idx": 3},
        ("cb ", "hypothesis: It is wet. premise: It rains."),
        "neutral",
    ),
    "super_glue_copa_v102": (
        {
            "premise": "It fell.", "question": "cause", "choice1": "I let go.",
            "choice2": "I sat.", "label": 0, "idx": 3,
        },
        ("copa ", "choice1: I let go. choice2: I sat. premise: It fell. question: cause"),
        "choice1",
    ),
    "super_glue_multirc_v102": (
        {
            "paragraph": "<b>Sent 1: </b>He sat.<br><b>Sent 2: </b>He ate.", "question": "Did he?",
            "answer": "Yes", "label": 1, "idx": {"paragraph": 1, "question": 2, "answer": 3},
        },
        ("multirc ", "question: Did he? answer: Yes paragraph: Sent 1: He sat. Sent 2: He ate."),
        "True",
    ),
    "super_glue_record_v102": (
        {
            "passage": "Ada came.\n@highlight\nSo did Bob\n@highlight\nAll sat", "answers": ["Ada"],
            "query": "@placeholder was first.", "entities": ["Ada", "Bob"],
            "idx": {"passage": 1, "query": 2},
        },
        (
            "record ",
            "query: @placeholder was first. entities: Ada, Bob "
            "passage: Ada came. So did Bob. All sat",
        ),
        "Ada",
    ),
    "super_glue_rte_v102": (
        {"premise": "It rains.", "hypothesis": "It is dry.", "label": 1, "idx": 3},
        ("rte ", "hypothesis: It is dry. premise: It rains."),
        "not_entailment",
    ),
    "super_glue_wic_v102": (
        {
            "word": "bank", "sentence1": "A bank.", "sentence2": "The bank.", "start1": 2,
            "end1": 6, "start2": 4, "end2": 8, "label": 0, "idx": 3,
        },
        ("wic ", "sentence1: A bank. sentence2: The bank. word: bank"),
        "False",
    ),
    "super_glue_axb_v102": (
        {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0, "idx": 3},
        ("rte ", "hypothesis: It is wet. premise: It rains."),
        "entailment",
    ),
    "super_glue_axg_v102": (
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "idx": 3},
        ("rte ", "hypothesis: It is wet. premise: It rains."),
        "entailment",
    ),
    "super_glue_wsc_v102_simple_eval": (
        {
            "text": "Ada told Eve that she won .", "span1_text": "Eve", "span1_index": 2,
            "span2_text": "she", "span2_index": 4, "label": 0, "idx": 3,
        },
        ("wsc: ", "Ada told Eve that *she* won ."),
        "Eve",
    ),
}  # fmt: skip
TEXTS["super_glue_wsc_v102_simple_train"] = (
    TEXTS["super_glue_wsc_v102_simple_eval"][0] | {"label": 1},
    *TEXTS["super_glue_wsc_v102_simple_eval"][1:],
)

# What inputs begin with, in the order of the extra ids that replace it.
NUMBERED = {
    "glue": ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"],
    "super_glue": ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc:"],
}


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio", reason="needs seqio and TensorFlow")


@pytest.fixture(scope="module")
def tasks(seqio):
    """The tasks and mixtures by name, registered for the vocabulary of the tests."""
    from prompt_tuning_tasks_glue import registration

    before = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    pieces = seqio.SentencePieceVocabulary(str(VOCABULARY), 38)
    for prefix, vocabulary in (("test_", pieces), ("test_byt5_", seqio.ByteVocabulary())):
        registration.register_glue(vocabulary, prefix)
        registration.register_super_glue(vocabulary, prefix)
    names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()} - before
    yield {name.removeprefix("test_"): seqio.get_mixture_or_task(name) for name in names}
    for name in names:
        seqio.TaskRegistry.remove(name)
        seqio.MixtureRegistry.remove(name)


def tensors(example, name=None):
    """The types of an example in TensorFlow Datasets, as a signature."""
    import tensorflow as tf

    if isinstance(example, dict):
        return {name: tensors(value, name) for name, value in example.items()}
    if isinstance(example, list):
        return tf.TensorSpec([None], tf.string)
    integer = tf.int64 if name == "label" else tf.int32
    types = {str: tf.string, int: integer, float: tf.float32}
    return tf.TensorSpec((), types[type(example)])


def from_examples(seqio, task, *examples):
    """The task with examples instead of those that TensorFlow Datasets would fetch."""
    import tensorflow as tf

    def dataset(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_generator(
            lambda: iter(examples), output_signature=tensors(examples[0])
        )

    return task.replace(source=seqio.FunctionDataSource(dataset, splits=["test"]))


def read(seqio, task, *examples, lengths=None):
    dataset = from_examples(seqio, task, *examples).get_dataset(lengths, "test", shuffle=False)
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_in_t5s_form(seqio, tasks, name):
    example, (prefix, inputs), target = TEXTS[name]

    (taskless,) = read(seqio, tasks[f"taskless_{name}"], example)
    (prefixed,) = read(seqio, tasks[f"{name}_examples"], example)
    (numbered,) = read(seqio, tasks[f"task_index_{name}"], example)

    assert taskless["inputs_pretokenized"].decode() == inputs
    assert prefixed["inputs_pretokenized"].decode() == prefix + inputs
    assert {e["targets_pretokenized"].decode() for e in (taskless, prefixed, numbered)} == {target}
    vocabulary = tasks[f"taskless_{name}"].output_features["inputs"].vocabulary
    assert taskless["inputs"].tolist() == [*vocabulary.encode(inputs), vocabulary.eos_id]
    assert numbered["inputs"][1:].tolist() == taskless["inputs"].tolist()
    words = NUMBERED["super_glue" if "super" in name else "glue"]
    assert numbered["inputs"][0] == vocabulary.encode(f"<extra_id_{words.index(prefix[:-1])}>")[-1]


def test_what_is_too_long_is_cut_before_eos(seqio, tasks):
    example = TEXTS["glue_sst2_v200"][0]
    lengths = {"inputs": 4, "targets": 3}
    (cut,) = read(seqio, tasks["taskless_glue_sst2_v200"], example, lengths=lengths)
    assert (len(cut["inputs"]), cut["inputs"][-1]) == (4, 1)
    assert (len(cut["targets"]), cut["targets"][-1]) == (3, 1)


def test_a_record_query_makes_an_example_for_each_of_its_answers(seqio, tasks):
    example = TEXTS["super_glue_record_v102"][0]
    answered, untold = (example | {"answers": answers} for answers in (["Ada", "Bob"], []))
    made = read(seqio, tasks["taskless_super_glue_record_v102"], answered, untold)
    assert [e["targets_pretokenized"].decode() for e in made] == ["Ada", "Bob", "<unk>"]


def test_winograd_trains_on_right_nouns_and_finds_the_pronoun(seqio, tasks):
    right = {
        "text": 'It fell . "Good for him," he said. ', "span1_text": "Bob", "span1_index": 0,
        "span2_text": "him", "span2_index": 5, "label": 1, "idx": 0,
    }  # fmt: skip
    wrong = right | {"label": 0}
    miscounted = right | {"text": "They use it , and it is good", "span2_text": "it"}
    miscounted |= {"span2_index": 1}
    made = read(seqio, tasks["taskless_super_glue_wsc_v102_simple_train"], right, wrong, miscounted)
    assert [e["inputs_pretokenized"].decode() for e in made] == [
        'It fell . "Good for *him* ," he said.',
        "They use *it* , and it is good",
    ]
    with pytest.raises(Exception, match="WSC: no pronoun"):
        read(seqio, tasks["taskless_super_glue_wsc_v102_simple_eval"], right | {"span2_text": "x"})


def evaluate(seqio, task, answers, *examples):
    """The values of the metrics that seqio's evaluator has for a model that gives these answers."""
    task = from_examples(seqio, task, *examples)
    ids = [task.output_features["targets"].vocabulary.encode(answer) for answer in answers]
    padded = [row + [0] * (max(map(len, ids)) - len(row)) for row in ids]
    seqio.TaskRegistry.add_provider("evaluated", task)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # seqio's own, of deprecated parts of its own
            evaluator = seqio.Evaluator(
                "evaluated", seqio.EncDecFeatureConverter(pack=False), "test"
            )
            future, _ = evaluator.evaluate(
                compute_metrics=True,
                predict_fn=lambda dataset: list(enumerate(padded)),
                score_fn=lambda dataset: [],
            )
        return future.result()[task.name]
    finally:
        seqio.TaskRegistry.remove("evaluated")


@pytest.mark.parametrize(
    ("name", "changes", "answers", "expected"),
    [
        # Right, wrong, and no class at all.
        ("glue_sst2_v200", [{}] * 3, ["positive", "negative", "fine"], {"accuracy": 100 / 3}),
        # A true and a false positive; what is no class at all is a false one as well.
        (
            "glue_mrpc_v200",
            [{"label": 1}, {"label": 0}, {"label": 0}],
            ["equivalent", "equivalent", "same"],
            {"f1": 50.0, "accuracy": 100 / 3},
        ),
        (
            "glue_stsb_v200",
            [{"label": 1.0}, {"label": 2.0}, {"label": 4.0}],
            ["0.0", "1.0", "3.0"],
            {"pearson_corrcoef": 100.0, "spearman_corrcoef": 100.0},
        ),
        # Two questions, of one of which both answers are right.
        (
            "super_glue_multirc_v102",
            [
                {"label": label, "idx": {"paragraph": 0, "question": question, "answer": answer}}
                for label, question, answer in [(1, 0, 0), (0, 0, 1), (1, 1, 2), (1, 1, 3)]
            ],
            ["True", "False", "True", "False"],
            {"f1": 80.0, "exact_match": 50.0},
        ),
        # The second answer to the same query is not asked for again.
        (
            "super_glue_record_v102",
            [{"answers": ["Ada Byron", "Ada"]}, {"idx": {"passage": 1, "query": 3}}],
            ["the Ada.", "Bob", "Bob"],
            {"em": 50.0, "f1": 50.0},
        ),
        (
            "super_glue_wsc_v102_simple_eval",
            [{"label": 1}, {"label": 0}, {"label": 1}],
            ["eve", "Eve", "Ada"],
            {"accuracy": 100 / 3},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metrics_score_what_the_model_says(seqio, tasks, name, changes, answers, expected):
    examples = [TEXTS[name][0] | change for change in changes]

    values = evaluate(seqio, tasks[f"byt5_taskless_{name}"], answers, *examples)
    with_examples = evaluate(seqio, tasks[f"byt5_taskless_{name}_examples"], answers, *examples)

    assert values == pytest.approx(expected)
    texts = {n: with_examples.pop(n).textdata for n in list(with_examples) if "samples" in n}
    assert with_examples == pytest.approx(expected)
    shown, wrong = sorted(texts.values(), key=len, reverse=True)
    assert shown.count("prediction: ") == len(answers)
    assert 0 < wrong.count("prediction: ") < len(answers) or name == "glue_stsb_v200"


def test_samples_show_texts(seqio, tasks):
    example = TEXTS["glue_sst2_v200"][0]
    task = tasks["byt5_glue_sst2_v200_examples"]

    values = evaluate(seqio, task, ["positive", "bad"], example, example)

    wrong = "example: sst2 sentence: a joy\n\ntarget: positive\n\nprediction: bad"
    assert values["sst2 negative samples"].textdata == wrong
    assert wrong in values["sst2 samples"].textdata


def test_names_are_those_of_the_reference(tasks):
    assert {name for name in tasks if "super" not in name and "byt5" not in name} == {
        f"{variant}glue_{task}_{version}{examples}"
        for version in ("v002", "v200")
        for examples in ("", "_examples")
        for variant in ("", "taskless_", "task_index_")
        for task in (
            "cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "mnli_mismatched", "mnli_matched",
            "qnli", "rte", "wnli", "ax", "mnli_and_dev",
        )
        if examples or (variant and task != "mnli_and_dev")
    }  # fmt: skip
    assert {name for name in tasks if "super" in name and "byt5" not in name} == {
        f"{variant}super_glue_{task}{examples}"
        for examples in ("", "_examples")
        for variant in ("", "taskless_", "task_index_")
        for task in (
            "boolq_v102", "cb_v102", "copa_v102", "multirc_v102", "record_v102", "rte_v102",
            "wic_v102", "axb_v102", "axg_v102", "wsc_v102_simple_train", "wsc_v102_simple_eval",
            "wsc_and_dev_v102_simple",
        )
        if examples or variant
    } | {"task_index_super_glue_v102_examples_proportional"}  # fmt: skip


def test_mixtures_mix_tasks_of_their_own_kind(seqio, tasks):
    mnli = tasks["taskless_glue_mnli_and_dev_v200_examples"]
    every = tasks["task_index_super_glue_v102_examples_proportional"]

    assert {task.name for task in mnli.tasks} == {
        f"test_taskless_glue_{name}_v200_examples"
        for name in ("mnli", "mnli_matched", "mnli_mismatched")
    }
    rates = {task.name.split("_glue_")[1]: every.get_rate(task) for task in every.tasks}
    assert rates["record_v102_examples"] == 138_854
    assert rates["wsc_v102_simple_eval_examples"] == 0
    assert len(rates) == 9


def test_the_released_vocabularies_are_registered_unread(seqio):
    before = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    from prompt_tuning_tasks_glue import glue, registration, super_glue

    assert glue, super_glue
    added = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()} - before
    try:
        for prefix, vocabulary in registration.released_vocabularies().items():
            task = seqio.TaskRegistry.get(f"{prefix}taskless_super_glue_cb_v102_examples")
            assert task.output_features["inputs"].vocabulary == vocabulary
            assert f"{prefix}taskless_glue_sst2_v200_examples" in added
        with pytest.raises(ValueError, match=r"seqio has a task called '.*' already; .* a prefix"):
            registration.register_glue(seqio.ByteVocabulary())
    finally:
        for name in added:
            seqio.TaskRegistry.remove(name)
            seqio.MixtureRegistry.remove(name)
