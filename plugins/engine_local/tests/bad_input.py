"""Bad input of every command: a table of what a person gives, and of the one line that answers."""

from __future__ import annotations

import io
import pickle
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tiny import TINY, gin_flags, training_flags


class Row(NamedTuple):
    """One command with bad input.

    Attributes:
      arguments: The command and its flags.
      files: The contents of files that are written first, by name.
      expected: A part of the line that answers, or several.
    """

    arguments: Sequence[str]
    files: Mapping[str, bytes]
    expected: str | tuple[str, ...]


RANDOM = "prompts/from_random_uniform.gin"
DYNAMIC = b"from __gin__ import dynamic_registration\n"
DEEP = "[" * 5000 + "1" + "]" * 5000

# Of `train`: what is changed of a run that would do.
VALUES: list[tuple[dict[str, Any], str]] = [
    # Macros that say what to run.
    ({"MODEL_DIR": None}, "MODEL_DIR"),
    ({"INITIAL_CHECKPOINT_PATH": None}, "INITIAL_CHECKPOINT_PATH"),
    ({"PACK": True}, "prompt tuning does not support packed examples"),
    ({"BATCH_SIZE": 0}, "BATCH_SIZE is 0, expected a whole number from 1 to 1000000"),
    ({"TRAIN_STEPS": -1}, "TRAIN_STEPS is -1, expected a whole number of at least 0"),
    ({"TASK_FEATURE_LENGTHS": {"inputs": 3}}, "TASK_FEATURE_LENGTHS is {'inputs': 3}"),
    # Tasks.
    ({"MIXTURE_OR_TASK_NAME": "toi"}, "unknown task 'toi'; did you mean 'toy'?"),
    (
        {"MIXTURE_OR_TASK_MODULE": "no_such_module"},
        "'no_such_module' is neither a plugin of kind tasks nor a module that Python finds",
    ),
    ({"toy/tasks.TextTask.metrics": ["exact"]}, "unknown metric 'exact'"),
    ({"toy/tasks.TextTask.metrics": [3]}, "a metric is 3, expected a name or a function"),
    (
        {"EARLY_STOPPING": 2},
        "EARLY_STOPPING is 2, and BEST_METRIC is None: name the metric, such as",
    ),
    ({"EARLY_STOPPING": 0}, "EARLY_STOPPING is 0, expected a whole number of at least 1"),
    ({"EVAL_LOSS": 1}, "EVAL_LOSS is 1, expected True or False"),
    ({"BEST_IS_LOWEST": "yes"}, "BEST_IS_LOWEST is 'yes', expected True or False"),
    ({"BEST_METRIC": "acuracy"}, "BEST_METRIC 'acuracy' is no metric here; did you mean 'acc"),
    (
        {"MIXTURE_OR_TASK_NAME": "mix", "BEST_METRIC": "accuracy"},
        "BEST_METRIC 'accuracy' is no metric here; did you mean 'toy/accuracy'?",
    ),
    ({"RANDOM_SEED": -1}, "RANDOM_SEED is -1, expected a whole number from 0 to 4294967295"),
    (
        {"STRICT_LENGTHS": True, "TASK_FEATURE_LENGTHS": {"inputs": 9, "targets": 6}},
        "rows.jsonl:1: the inputs have 10 ids and TASK_FEATURE_LENGTHS['inputs'] is 9",
    ),
    # Mixtures.
    (
        {"MIXTURE_OR_TASK_NAME": "mix", "mix/tasks.Mixture.rates": {"toy": 1, "toi": 2}},
        "mixture 'mix': unknown task 'toi'; did you mean 'toy'?",
    ),
    (
        {"MIXTURE_OR_TASK_NAME": "mix", "mix/tasks.Mixture.rates": {"toy": 0}},
        "mixture 'mix': the rate of 'toy' is 0, expected a positive number",
    ),
    (
        {"MIXTURE_OR_TASK_NAME": "toy", "toy/tasks.Mixture.rates": {"toy": 1}},
        "'toy' is described in gin both as a task and as a mixture",
    ),
    # Prompt lengths and labels.
    ({"PROMPT_LENGTH": 0}, "PROMPT_LENGTH is 0, expected a whole number from 1 to 1000000"),
    ({"plugins.prompt_basic.length": -3}, "has the shape (-3, 32), expected sizes of at least"),
    ({"plugins.prompt_basic.length": "x"}, "has the shape ('x', 32)"),
    ({"plugins.prompt_basic.combine": 3}, "combine is 3, expected one of 'prefix'"),
    ({"plugins.prompt_basic.dropout_rate": 2}, "dropout_rate is 2, expected a number of at l"),
    ({"plugins.prompt_basic.dropout_rate": "x"}, "dropout_rate is 'x', expected a number"),
    ({"plugins.prompt_basic.sides": "encoder"}, "sides is 'encoder', expected a tuple of"),
    # The parts of a run.
    ({"PROMPT": 3}, "PROMPT is 'int', expected a prompt module that is not called"),
    ({"OPTIMIZER": 3}, "OPTIMIZER is 3, expected an optax optimizer such as"),
    ({"MODEL": 3}, "MODEL is 3, expected an EncoderDecoderModel: name a models file"),
    ({"prompted_model.EncoderDecoderModel.decode_fn": 3}, "decode_fn is 3, expected a function"),
    ({"VOCABULARY": 3}, "vocab is 3, expected something with encode(str) -> ids"),
    ({"options.TrainingOptions.eval_split": 3}, "eval_split is 3, expected a text in quotes"),
    ({"options.TrainingOptions.train_split": ""}, "train_split is '', expected a text in quo"),
    ({"optimizers.adafactor.learning_rate": "0.3"}, "adafactor.learning_rate is '0.3', expec"),
    ({"optimizers.adafactor.learning_rate": -1}, "expected a number of at least 0, or an opta"),
    ({"LEARNING_RATE": -1}, "LEARNING_RATE is -1, expected a number of at least 0"),
    (
        {"LEARNING_RATE_SCHEDULE": "cosin"},
        "unknown LEARNING_RATE_SCHEDULE 'cosin'; did you mean 'cosine'",
    ),
    (
        {"LEARNING_RATE_SCHEDULE": "linear"},
        "DECAY_STEPS is None, and LEARNING_RATE_SCHEDULE = 'linear' needs the number of steps unt",
    ),
    (
        {"LEARNING_RATE_SCHEDULE": "cosine", "DECAY_STEPS": 3, "WARMUP_STEPS": 3},
        "DECAY_STEPS is 3, and includes the WARMUP_STEPS, which are 3; expected more",
    ),
    ({"DECAY_STEPS": 3}, "DECAY_STEPS is 3, and LEARNING_RATE_SCHEDULE = 'constant' has no end"),
    ({"optimizers.adafactor.decay_rate": "x"}, "adafactor.decay_rate is 'x', expected a numb"),
    ({"optimizers.adafactor.weight_decay_rate": "x"}, "expected a number of at least 0, or No"),
    ({"optimizers.adafactor.step_offset": True}, "adafactor.step_offset is True, expected a"),
    (
        {"vocabularies.SentencePieceVocabulary.extra_ids": 10**9},
        "VOCABULARY_EXTRA_IDS is 1000000000, expected a whole number from 0 to 1000000",
    ),
    (
        {"NUM_MICROBATCHES": 2},
        "BATCH_SIZE is 3, and NUM_MICROBATCHES = 2 cannot cut it into equal parts for 1 devi",
    ),
    ({"NUM_DEVICES": 99}, "NUM_DEVICES is 99, and there are 1 local devices of kind cpu"),
    # Tasks.
    ({"toy/tasks.TextTask.inputs": 5}, "task 'toy' has the inputs 5, expected a template"),
    ({"toy/tasks.TextTask.targets": ["x"]}, "task 'toy' has the targets ['x'], expected a te"),
    ({"toy/tasks.TextTask.target_names": 7}, "target_names 7, expected a mapping to texts or"),
    ({"toy/tasks.TextTask.target_names": ["bad", 3]}, "target_names ['bad', 3], expected a"),
    ({"toy/tasks.TextTask.target_names": ["bad"]}, "'1' has no name in target_names, which"),
    ({"toy/tasks.TextTask.splits": 3}, "task 'toy' has the splits 3, expected for example"),
    ({"CLASS_LABELS": None}, "CLASS_LABELS"),
    ({"CLASS_LABELS": []}, "texts"),
    ({"CLASS_LABELS": 7}, "7"),
    ({"CLASS_LABELS": ["bad", ""]}, "''"),
    ({"CLASS_LABELS": ["a"] * 6}, "6"),
    ({"prompt_init/plugins.init_vocab.population_size": 0}, "population"),
    # Plugins.
    ({"plugins.init_vocab.population": 3}, "population"),
    # What gin has no types for.
    ({"prompts.make.prompt_init": 3}, "takes no key and shape (3 is not a callable object); write"),
    ({"PROMPT_LENGTH": {"a": 1}}, "PROMPT_LENGTH is {'a': 1}, expected a whole number from 1"),
    ({"MIXTURE_OR_TASK_NAME": ""}, "MIXTURE_OR_TASK_NAME is ''"),
    (
        {"TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 0}},
        "TASK_FEATURE_LENGTHS is {'inputs': 1",
    ),
    ({"HOOKS": "x"}, "HOOKS is 'x', and should be a list"),
    ({"HOOKS": ["no_such"]}, "no hooks plugin named 'no_such' is installed"),
    ({"TRAIN_STEP": 3}, "none of the gin files uses %TRAIN_STEP; did you mean 'TRAIN_STEPS'"),
]


def array(value: np.ndarray, *, cut: int | None = None) -> bytes:
    """Returns a `.npy` file, or its first bytes."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()[:cut]


PROMPT = np.ones((5, 32), np.float32)
ONE = b'{"text": "this", "label": 1}\n'
SPLITS = "toy/tasks.TextTask.splits"

# Of `train`: files, changed flags.
FILES: list[tuple[dict[str, bytes], dict[str, Any], str | tuple[str, ...]]] = [
    # Lines of data.
    ({"rows.jsonl": ONE + b'{"text": \n'}, {}, "rows.jsonl:2: not JSON"),
    ({"rows.jsonl": ONE + b'["this"]\n'}, {}, "rows.jsonl:2: found list"),
    ({"rows.jsonl": ONE + b"\n"}, {}, "rows.jsonl:2: the line is empty"),
    ({"rows.jsonl": b'{"text": "this", "lable": 1}\n'}, {}, "rows.jsonl:1: no column 'label'"),
    ({"rows.jsonl": b'{"text": "this", "label": 2}\n'}, {}, "rows.jsonl:1: the target '2' has no"),
    ({"rows.jsonl": b""}, {}, "split 'train' is empty"),
    ({"rows.jsonl": b'{"text": null, "label": 1}\n'}, {}, "rows.jsonl:1: column 'text' is null"),
    ({"rows.jsonl": b'{"text": ["a"], "label": 1}\n'}, {}, "jsonl:1: column 'text' is a list"),
    ({"rows.jsonl": b'{"text": NaN, "label": 1}\n'}, {}, "rows.jsonl:1: column 'text' is nan"),
    ({"rows.jsonl": b'{"text": 1e400, "label": 1}\n'}, {}, "jsonl:1: column 'text' is inf"),
    ({"rows.jsonl": b'{"text": "a", "text": "b", "label": 1}\n'}, {}, "jsonl:1: the name 'text'"),
    ({"rows.jsonl": b'{"text": "\\ud800", "label": 1}\n'}, {}, "half of a surrogate pair"),
    ({"rows.jsonl": b'{"text": %s, "label": 1}\n' % (b"1" * 5000)}, {}, "rows.jsonl:1: "),
    ({"rows.jsonl": b'{"text": %s, "label": 1}\n' % (b"[" * 10**5)}, {}, "jsonl:1: JSON that is"),
    ({"rows.jsonl": b"\xff\xfe\n"}, {}, "rows.jsonl"),
    # Files of data.
    (
        {"x.tsv": b"text\tlabel\nthis\t1\nbad\t0\tmore\n"}, {SPLITS: {"train": "x.tsv"}},
        "x.tsv:3: found 3 columns, expected the 2 of the first line (text, label)",
    ),
    (
        {"x.csv": b'text,label\n"this\nis",1\n"a"test,0\n'}, {SPLITS: {"train": "x.csv"}},
        "x.csv:4: not CSV: ',' expected",
    ),
    ({"x.csv": b"text,label\n"}, {SPLITS: {"train": "x.csv"}}, "split 'train' is empty"),
    ({"x.csv": b"text,text\na,b\n"}, {SPLITS: {"train": "x.csv"}}, "x.csv"),
    ({"x.csv": b"this is,1\na test,0\n"}, {SPLITS: {"train": "x.csv"}}, "no column"),
    ({"x.csv.gz": b"text,label\n"}, {SPLITS: {"train": "x.csv.gz"}}, "x.csv.gz: cannot be read"),
    ({"x.xlsx": b""}, {SPLITS: {"train": "x.xlsx"}}, "x.xlsx has none of the endings .jsonl, .tsv"),
    ({}, {SPLITS: {"train": "gone.tsv"}}, "gone.tsv"),
    ({}, {SPLITS: {"train": "model"}}, "model"),
    ({}, {SPLITS: {"validation": "rows.jsonl"}}, "no split 'train'"),
    # Prompts and embedding tables.
    *(
        (
            files,
            {"prompt_file": "prompts/from_file.gin", "PROMPT_FILE": "bad.npy"},
            ("bad.npy", part),
        )
        for files, part in [
            ({}, "bad.npy"),
            ({"bad.npy": b"not an array"}, "bad.npy"),
            ({"bad.npy": array(PROMPT, cut=300)}, "bad.npy: is truncated"),
            ({"bad.npy": pickle.dumps([1])}, "pickle"),
            ({"bad.npy": array(np.array([{}, {}], object))}, "pickle"),
            ({"bad.npy": array(np.ones((5, 32), np.int64))}, "int64"),
            ({"bad.npy": array(PROMPT[:4])}, "(4, 32)"),
            ({"bad.npy": array(PROMPT[:, :16])}, "(5, 16)"),
            ({"bad.npy": array(PROMPT * np.nan)}, "has values that aren't finite"),
            ({"bad.npy": b""}, "bad.npy"),
        ]
    ),
    *(
        (
            files,
            {"prompt_file": "prompts/from_sampled_vocab_numpy.gin", "EMBEDDING_FILE": "table.npy"},
            ("table.npy", part),
        )
        for files, part in [
            ({}, "table.npy"),
            ({"table.npy": array(np.ones((64, 16), np.float32))}, "16"),
            ({"table.npy": array(np.ones((64, 32), np.int32))}, "int32"),
            ({"table.npy": array(np.ones((64,), np.float32))}, "(64,)"),
        ]
    ),
    # Models and vocabularies.
    ({}, {"INITIAL_CHECKPOINT_PATH": "nowhere"}, "model nowhere: there is no such file"),
    ({}, {"INITIAL_CHECKPOINT_PATH": "rows.jsonl"}, "rows.jsonl"),
    ({"model.safetensors": b"{}"}, {"INITIAL_CHECKPOINT_PATH": "model.safetensors"}, "safetensors"),
    ({}, {"VOCABULARY_FILE": "none.model"}, "vocabulary none.model: cannot be read"),
    ({"x.model": b"\xff\xff"}, {"VOCABULARY_FILE": "x.model"}, "x.model: not a SentencePiece"),
    ({"x.model": b""}, {"VOCABULARY_FILE": "x.model"}, "x.model"),
    # Gin.
    ({"x.gin": b"A = %B\nB = %A\n"}, {}, "x.gin:1: the value of %A leads back to %A"),
    ({"x.gin": b"A = [1, %A]\n"}, {}, "x.gin:1: the value of %A leads back to %A"),
    ({"x.gin": b"X = " + DEEP.encode()}, {}, "x.gin: a value is nested too deep for gin"),
    ({"x.gin": b"A = \n"}, {}, "x.gin:1"),
    ({"x.gin": b"A = {[]: 6}\n"}, {}, "x.gin: TypeError: unhashable type: 'list'"),
    ({"x.gin": b"A = test\n"}, {}, "x.gin:1: test is no value; write text in quotes"),
    ({"x.gin": b"\xff\xfe"}, {}, "gin file x.gin cannot be read"),
    ({"x.gin": b"include 'gone.gin'\n"}, {}, "x.gin:1: gin file 'gone.gin' not found"),
    ({"x.gin": b"include '%s'\n" % (b"9" * 5000)}, {}, "x.gin:1: gin file '999"),
    ({"x.gin": b"include 'x.gin'\n"}, {}, "which includes it in turn"),
    ({"x.gin": b"import no_such\n"}, {}, "x.gin:1: ModuleNotFoundError: No module"),
    ({"x.gin": b"toy/tasks.TextTsk.inputs = 'x'\n"}, {}, "x.gin:1: "),
    (
        {"x.gin": DYNAMIC + b"import prompt_tuning_tasks as t\ntoy/t.TextTask.input = 'x'\n"},
        {}, "x.gin:3: 't.TextTask' has no parameter 'input'",
    ),
    ({"x.gin": b"PROMPT = @prompt_basc\n"}, {}, "'prompt_basc' is neither a plugin nor registe"),
    ({"x.gin": b"init_string.text = 'a'\n"}, {}, "x.gin:1: no binding of this run uses @init_s"),
    ({"x.gin": b"A = %B\n"}, {}, "macro %B has no value"),
]  # fmt: skip

# Of `train`: bindings of the command line, and other flags.
BINDINGS: list[tuple[list[str], str]] = [
    (
        ["--gin.prompts.make.prompt_init=@init_random"],
        "takes no key and shape (too many po",
    ),
    (["--gin.PROMPT=@plugins.prompt_basic()"], "PROMPT = @plugins.NAME, without ()"),
    (["--gin.prompts.make.prompt_init=@own.init_x()"], "import own in a gin file: a binding"),
    (["--gin.prompts.make.prompt_init=@init_randm()"], "did you mean 'init_random'"),
    (["--gin.prompts.make.prompt_init=@init_vocab()", "--gin.init_string.text='x'"], "init_string"),
    (["--gin.X=" + DEEP], "a value is nested too deep for gin"),
    (
        ["--gin_file=models/decoding/beam_search.gin", "--gin.decoding.beam_search.num_decodes=0"],
        "decoding.beam_search.num_decodes is 0, expected a whole number of at least 1",
    ),
    (
        ["--gin_file=models/decoding/rank_classification.gin", "--gin.RANK_LABELS=[]"],
        "RANK_LABELS is [], expected a list of texts, such as ['yes', 'no']",
    ),
    (["--gin.BATCH_SIZE"], "'--gin.BATCH_SIZE' has no value"),
    (["--gin.BATCH_SIZE="], "is not of the form NAME=VALUE"),
    (["--gin.=3"], "is not of the form NAME=VALUE"),
    (["--gin.BATCH_SIZE=three"], "three is no value; write text in quotes"),
    (["--gin.BATCH_SIZE=%BATCH"], "macro %BATCH has no value; "),
    (["--gin.BATCH_SIZE=%BATCH_SIZE"], "the value of %BATCH_SIZE leads back to %BATCH_SIZE"),
    (["--gin.prompt_basic.lenght=3"], "has no parameter 'lenght'; did you mean 'length'"),
    (["--batch_size=3"], "unknown flag '--batch_size=3'"),
    (["--hooks=no_such"], "no hooks plugin named 'no_such' is installed"),
    (["--hooks=local"], "'local' of prompt-tuning-engine-local"),
    (["--engine=locl"], "did you mean 'local'"),
    (["--block-plugin=local", "--engine=local"], "'local' is blocked (--block-plugin"),
    (["--block-plugin=prompt_basic"], "'prompt_basic' is blocked"),
    (["--block-plugin=a:b:c"], "'a:b:c' names no plugin"),
    (["--gin_file=gone.gin"], "gin file 'gone.gin' not found; tried"),
    (["--gin_file=models/t5_1_1_smal_prompt.gin"], "not found; did you mean 't5_1_1_small_prompt'"),
    (["--gin_file=" + "x" * 300], "xxx' not found; tried"),
    (["--gin_file=" + "x" * 9000 + "y"], "…" + "x" * 98 + "y' not found; tried"),
    (["extra"], "unknown flag 'extra'; the local engine takes --gin_file"),
]


def evaluation(command: str, **changes: Any) -> list[str]:
    """Returns the flags of `eval` or `infer` for the tiny model and `prompt.npy`."""
    files = ("models/t5_1_1_small_prompt.gin", "task.gin", f"runs/prompt_{command}.gin")
    macros = {
        **TINY, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "prompt.npy",
        f"{command.upper()}_OUTPUT_DIR": "out", **changes,
    }  # fmt: skip
    if command == "infer":
        macros.setdefault("INFER_INPUT_FILE", "texts.txt")
    return [command, *(f"--gin_file={file}" for file in files), *gin_flags(**macros)]


GIVEN = {"prompt.npy": array(PROMPT), "texts.txt": b"this is\n"}
OTHER_VOCABULARY = b'{"vocabulary": {"path": "other.model", "sha256": "00"}}'

# Of `eval` and `infer`: files, changed flags.
EVALUATIONS: list[tuple[str, dict[str, bytes], dict[str, Any], str]] = [
    ("eval", {}, {"PROMPT_FILE": "model"}, "prompt model: no installed format plugin reco"),
    ("eval", {}, {"PROMPT_FILE": "gone.npy"}, "gone.npy"),
    ("eval", {}, {"PROMPT_FILE": 3}, "PROMPT_FILE"),
    ("eval", {"prompt.npy": array(PROMPT[:4])}, {}, "and the prompt prompt.npy has 4 posit"),
    ("eval", {"prompt.npy": array(PROMPT[:, :8])}, {}, "(5, 8)"),
    ("eval", {"prompt.json": b"{"}, {}, "prompt.json"),
    ("eval", {"prompt.json": OTHER_VOCABULARY}, {}, "trained with the vocabulary other.model"),
    ("eval", {}, {"EVAL_SPLIT": "tset"}, "no split 'tset'; did you mean 'test'?"),
    ("eval", {}, {"EVAL_SPLIT": 3}, "EVAL_SPLIT is 3"),
    ("eval", {}, {"BATCH_SIZE": 0}, "BATCH_SIZE is 0, expected a whole number"),
    ("eval", {}, {"MIXTURE_OR_TASK_NAME": "toi"}, "unknown task 'toi'; did you mean 'toy'?"),
    ("eval", {}, {"CHECKPOINT_PATH": "gone"}, "model gone: there is no such file"),
    ("eval", {}, {"EVAL_OUTPUT_DIR": "gs://bucket/out"}, "EVAL_OUTPUT_DIR is 'gs://bucket/out'"),
    ("eval", {}, {"EVAL_OUTPUT_DIR": "rows.jsonl"}, "EVAL_OUTPUT_DIR rows.jsonl is not a"),
    ("eval", {}, {"EVAL_OUTPUT_DIR": ""}, "EVAL_OUTPUT_DIR is ''"),
    ("eval", {}, {"toy/tasks.TextTask.metrics": ["exact"]}, "unknown metric 'exact'"),
    ("eval", {}, {"PROMPT_LENGTH": 4}, "4"),
    ("infer", {}, {"INFER_INPUT_FILE": "gone.txt"}, "INFER_INPUT_FILE gone.txt: cannot be read"),
    ("infer", {}, {"INFER_INPUT_FILE": "model"}, "model"),
    ("infer", {"x.parquet": b""}, {"INFER_INPUT_FILE": "x.parquet"}, "x.parquet"),
    ("infer", {"x.JSON": b"{}"}, {"INFER_INPUT_FILE": "x.JSON"}, "x.JSON"),
    ("infer", {"x.jsonl": b'{"txt": "a"}\n'}, {"INFER_INPUT_FILE": "x.jsonl"}, "no column 'text'"),
    (
        "infer", {"x.jsonl": b'{"text": "a", "prediction": 1}\n'}, {"INFER_INPUT_FILE": "x.jsonl"},
        "x.jsonl:1: a line of the answers has a 'prediction' of its own; rename this column",
    ),
    (
        "infer", {"x.jsonl": b'{"text": "a", "id": "\\ud800"}\n'}, {"INFER_INPUT_FILE": "x.jsonl"},
        "x.jsonl:1: a column holds half of a surrogate pair",
    ),
    ("infer", {"x.jsonl": b"{\n"}, {"INFER_INPUT_FILE": "x.jsonl"}, "x.jsonl:1: not JSON"),
    ("infer", {"x.txt": b"\xff\n"}, {"INFER_INPUT_FILE": "x.txt"}, "x.txt"),
    ("infer", {"x.txt": b""}, {"INFER_INPUT_FILE": "x.txt"}, "x.txt"),
    ("infer", {}, {"INFER_OUTPUT_DIR": "s3://bucket/out"}, "INFER_OUTPUT_DIR is 's3://bucket"),
    ("infer", {}, {"INFER_OUTPUT_DIR": "rows.jsonl"}, "INFER_OUTPUT_DIR rows.jsonl is not a"),
    (
        "infer", {"x.jsonl": ONE}, {"INFER_INPUT_FILE": "x.jsonl", "MIXTURE_OR_TASK_NAME": "mix"},
        "MIXTURE_OR_TASK_NAME 'mix' is a mixture, and a text fills",
    ),
]  # fmt: skip


def nested_index(depth: int) -> bytes:
    """Returns the index of a T5X checkpoint with a parameter in maps in maps."""
    before, after = b"\x82\xa7version\x03\xa9optimizer\x82\xa6target", b"\xa5state\x81\xa4step\x01"
    return before + b"\x81\xa1a" * depth + b"\x01" + after


MODEL = "model/model.safetensors"
TABLE = "token_embedder/embedding"

# Other commands: files, and what is typed.
COMMANDS: list[tuple[dict[str, bytes], str, str]] = [
    ({}, "trian", "unknown command 'trian'; did you mean 'train'"),
    ({}, "prompt shwo x", "unknown command 'prompt shwo'; did you mean 'prompt show'"),
    ({}, "--train", "unknown command"),
    ({}, "list-plugins --jsn", "unknown argument '--jsn'; see prompt-tuning list-plugins --help"),
    ({}, "list-plugins --json=1", "ignored explicit argument '1'"),
    ({}, "list-plugins more", "more"),
    ({}, "gin-path --engine=locl", "'locl' is installed; did you mean 'local'"),
    ({}, "gin-path --engine=local models/none.gin", "gin file 'models/none.gin' not found; tried"),
    ({}, "gin-path --engine=local a b", "unknown argument 'b'"),
    ({}, "gin-path --engine", "expected one argument"),
    ({}, "model show", "the following arguments are required: CHECKPOINT"),
    ({}, "model show gone", "model gone: there is no such file"),
    ({}, "model show rows.jsonl", "rows.jsonl"),
    ({"x.safetensors": b"{}"}, "model show x.safetensors", "x.safetensors"),
    ({"m/config.json": b"{"}, "model show m", "model m"),
    ({"m/config.json": b'{"model_type": 3}'}, "model show m", "model m"),
    *(
        ({"m/checkpoint": content}, "model show m", "of a T5X checkpoint (nested too deeply)")
        for content in (nested_index(990), b"\x81\xa1a" * 10**5 + b"\x01")
    ),
    ({}, "model list x", "unknown argument 'x'"),
    ({}, "extract-variable", "the following arguments are required: CHECKPOINT"),
    ({}, "extract-variable gone", "model gone: there is no such file"),
    ({}, f"extract-variable {MODEL} token_embedder/embeding x.npy", f"did you mean '{TABLE}'"),
    ({}, f"extract-variable {MODEL} {TABLE} x.npy --dtype=int8", "--dtype: invalid choice: 'int8'"),
    ({}, f"extract-variable {MODEL} {TABLE} rows.jsonl/x.npy", "rows.jsonl/x.npy"),
    ({}, f"extract-variable {MODEL} {TABLE} x.txt", "x.txt"),
    ({}, "prompt show", "the following arguments are required: PROMPT"),
    ({}, "prompt show gone.npy", "gone.npy"),
    ({}, "prompt show rows.jsonl", "rows.jsonl"),
    ({"p.npy": b"x"}, "prompt show p.npy", "p.npy"),
    ({"p.npy": array(PROMPT[0])}, "prompt show p.npy", "p.npy"),
    ({"p.npy": array(PROMPT), "p.json": b"["}, "prompt show p.npy", "p.json"),
    (
        {"p.npy": array(PROMPT)},
        "prompt show p.npy --nearest=x",
        "--nearest: invalid int value: 'x'",
    ),
    ({"p.npy": array(PROMPT)}, "prompt show p.npy --nearest=0", "nearest"),
    ({"p.npy": array(PROMPT)}, "prompt show p.npy --model=gone", "gone"),
    (
        {"p.npy": array(PROMPT[:, :8])},
        f"prompt show p.npy --model={MODEL} --vocabulary=vocabulary.model",
        "8",
    ),
    ({}, "prompt convert", "the following arguments are required: IN, OUT"),
    ({}, "prompt convert gone.npy x.npy", "gone.npy"),
    ({"p.npy": array(PROMPT)}, "prompt convert p.npy x.docx", "x.docx"),
    ({"p.npy": array(PROMPT)}, "prompt convert p.npy rows.jsonl/x.npy", "rows.jsonl/x.npy"),
    ({"p.npy": array(PROMPT[:, :0])}, "prompt convert p.npy x.npy", "p.npy"),
    (
        {"p.npy": array(PROMPT * np.float64(1e300))},
        "prompt convert p.npy x.npy",
        "prompt p.npy: has values beyond the range of float32",
    ),
    (
        {"p.npy": array(PROMPT), "p.json": b'{"task": "\\ud800"}'},
        "prompt convert p.npy x.safetensors",
        "provenance p.json: not readable as JSON (a text has half of a surrogate pair)",
    ),
    (
        {"p.npy": array(PROMPT), "p.json": b'{"task": ' + DEEP.encode()},
        "prompt show p.npy",
        "provenance p.json: not readable as JSON (nested too deeply)",
    ),
    ({}, "prompt list x", "unknown argument 'x'"),
    ({}, "find-module", "the following arguments are required: module"),
    ({}, "find-module no.such", "no module named 'no.such' is installed"),
    ({}, "find-module sys", "module 'sys' has no folder: it is built into Python"),
    ({}, "eval --gin_file=gone.gin", "gin file 'gone.gin' not found; tried"),
    ({}, "infer --nothing", "unknown flag '--nothing'; the local"),
]  # fmt: skip


def rows() -> Iterator[Row]:
    """Yields all rows."""
    for changes, expected in VALUES:
        yield Row(["train", *training_flags(**changes)], {}, expected)
    for files, changes, expected in FILES:
        changes = {"prompt_file": RANDOM, **changes}
        flags = training_flags(**changes)
        if "x.gin" in files:
            flags.append("--gin_file=x.gin")
        yield Row(["train", *flags], files, expected)
    for flags, expected in BINDINGS:
        yield Row(["train", *training_flags(RANDOM), *flags], {}, expected)
    for command, files, changes, expected in EVALUATIONS:
        yield Row(evaluation(command, **changes), {**GIVEN, **files}, expected)
    for files, line, expected in COMMANDS:
        yield Row(shlex.split(line), files, expected)


def first_rows() -> dict[str, Row]:
    """Returns the first row of each command by its name."""
    found: dict[str, Row] = {}
    for row in rows():
        words = row.arguments[: 2 if row.arguments[0] in ("model", "prompt") else 1]
        found.setdefault(" ".join(words), row)
    for unknown in ("trian", "prompt shwo", "--train"):
        del found[unknown]
    return found
