"""Bad input of each kind ends a command with one line and exit code 2, and leaves no file."""

from __future__ import annotations

import os
import re
import textwrap

import bad_input
import numpy as np
import pytest
import safetensors.numpy
from tiny import gin_flags, run_command, training_flags
from tiny_model import make_model

from prompt_tuning_core import gin_config
from prompt_tuning_core.errors import InputError
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_engine_local.runs import options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]


def one_line(error, folder, before):
    """Returns the one line of a command that failed, and checks that it left nothing."""
    warning = "prompt-tuning: warning: population_size is 5000"  # The tiny table has 64 rows.
    lines = [n for n in error.strip().splitlines() if not n.startswith(warning)]
    assert len(lines) == 1, error
    assert lines[0].startswith("prompt-tuning: error: ")
    assert files_of(folder) == before
    return lines[0]


def files_of(folder):
    return {path for path in folder.rglob("*") if "site" not in path.parts}


@pytest.fixture
def complaint(project, main, monkeypatch):
    """A function that runs a command, which must fail, in this process, and returns its line."""
    monkeypatch.chdir(project)

    def complain(arguments):
        before = files_of(project)
        code, _, error = main(*arguments)
        assert code == 2, error
        return one_line(error, project, before)

    return complain


def complaint_of_a_process(arguments, folder, **environment):
    """As `complaint`, in a process with an environment of its own."""
    before = files_of(folder)
    finished = run_command(arguments, folder, **environment)
    assert finished.returncode == 2, finished.stderr
    return one_line(finished.stderr, folder, before)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def test_every_row_is_answered_in_one_line(tmp_path, make_project, main, monkeypatch):
    table = list(bad_input.rows())
    assert len(table) >= 150
    wrong = []
    for number, (arguments, files, expected) in enumerate(table):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(make_project(folder), files)
        monkeypatch.chdir(folder)
        before = files_of(folder)
        code, _, error = main(*arguments)
        try:
            assert code == 2, error
            line = one_line(error, folder, before)
            for part in [expected] if isinstance(expected, str) else expected:
                assert part in line, line
        except AssertionError as problem:
            what = textwrap.shorten(" ".join([*arguments[:1], *arguments[-2:]]), 150)
            wrong.append(f"{what} {list(files)}: {textwrap.shorten(str(problem), 700)}")
    assert not wrong, "\n".join(wrong)


PIPES = {
    "vocabulary": {"VOCABULARY_FILE": "pipe.model"},
    "labels": {"CLASS_LABELS": "pipe.model"},
    "data": {"toy/tasks.TextTask.splits": {"train": "pipe.jsonl"}},
    "table": {"prompt_file": "prompts/from_sampled_vocab_numpy.gin", "EMBEDDING_FILE": "pipe.npy"},
}


@pytest.mark.parametrize("what", PIPES)
def test_a_pipe_is_refused_and_not_waited_for(project, complaint, what):
    for name in ("pipe.model", "pipe.jsonl", "pipe.npy"):
        os.mkfifo(project / name)
    line = complaint(["train", *training_flags(**PIPES[what])])
    assert "is a pipe, a device or a socket, expected a file" in line


def test_a_prompt_that_does_not_fit_into_memory_is_refused(project, complaint):
    # Files with holes: 327 GB of zeros on no disk.
    header = {"shape": (10**8, 820), "fortran_order": False, "descr": "<f4"}
    with (project / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * 820 * 10**8)
    for command in ("show huge.npy", "convert huge.npy x.npy"):
        line = complaint(["prompt", *command.split()])
        assert "huge.npy: an array of the shape [100000000, 820] does not fit into mem" in line


@pytest.mark.parametrize("command", bad_input.first_rows())
def test_a_process_of_each_command_answers_in_one_line(project, command):
    arguments, files, expected = bad_input.first_rows()[command]
    write(project, files)
    assert expected in complaint_of_a_process(arguments, project)


@pytest.mark.parametrize(
    ("macro", "wrong", "right", "expected"),
    [
        ("MODEL_DIR", 3, "run", "the path of a folder on this machine, in quotes"),
        ("MODEL_DIR", "gs://bucket/run", "run", "the path of a folder on this machine"),
        ("MODEL_DIR", "", ".", "the path of a folder on this machine"),
        ("ALLOW_CHANGES", "TRAIN_STEPS", ["TRAIN_STEPS"], "a list of names"),
        ("MIXTURE_OR_TASK_NAME", ["toy"], "toy", "a text in quotes, or None"),
        ("TASK_FEATURE_LENGTHS", 12, {"inputs": 12, "targets": 6}, "a mapping such as"),
        ("BATCH_SIZE", 2.0, 2, "a whole number from 1 to 1000000"),
        ("BATCH_SIZE", True, 1, "a whole number from 1 to 1000000"),
        ("EVAL_PERIOD", "2", 2, "a whole number of at least 1"),
        ("SAVE_PERIOD", 0, 1, "a whole number of at least 1"),
        ("TRAIN_STEPS", "4", 4, "a whole number of at least 0, or None"),
        ("TRAIN_STEPS_RELATIVE", -1, None, "a whole number of at least 0, or None"),
        ("KEEP_CHECKPOINTS", 0, None, "a whole number of at least 1, or None for every prompt"),
        ("BEST_METRIC", 1, "accuracy", "a text in quotes, or None"),
        ("RANDOM_SEED", 2**32, 2**32 - 1, "a whole number from 0 to 4294967295, or None to draw"),
        ("NUM_DEVICES", "all", None, "a whole number of at least 1, or None for all"),
        ("BUCKETING", "False", False, "True or False"),
        ("SHUFFLE", 1, True, "True or False"),
        ("STRICT_LENGTHS", None, False, "True or False"),
        ("DROPOUT_RATE", 1, 0, "a number of at least 0 and below 1"),
        ("NUM_HEADS", "4", 4, "a whole number from 1 to 10000"),
        ("NUM_ENCODER_LAYERS", 10**7, 24, "a whole number from 1 to 10000"),
        ("VOCABULARY_EXTRA_IDS", None, 0, "a whole number from 0 to 1000000"),
        ("VOCABULARY_EXTRA_IDS", -1, 100, "a whole number from 0 to 1000000"),
        ("PROMPT_LENGTH", 10**10, 100, "a whole number from 1 to 1000000"),
        ("PROMPT_LENGTH", 2.5, 2, "a whole number from 1 to 1000000"),
        ("PROMPT_LENGTH", True, 1, "a whole number from 1 to 1000000"),
        ("BATCH_SIZE", 10**9, 128, "a whole number from 1 to 1000000"),
        ("ACTIVATION_DTYPE", "int8", "bfloat16", "one of 'float32', 'bfloat16', 'float16'"),
        ("ACTIVATION_DTYPE", 16, "float32", "one of 'float32'"),
        ("Z_LOSS", "a", 0, "a number of at least 0"),
        ("LABEL_SMOOTHING", "x", 0.1, "a number of at least 0 and below 1"),
        ("LOSS_NORMALIZING_FACTOR", "y", "average_per_sequence", "a number above 0, one of"),
        ("LOSS_NORMALIZING_FACTOR", 0, None, "a number above 0, one of"),
        ("RECORD_SETTINGS", "no", False, "True or False"),
    ],
)
def test_types_and_ranges_are_checked_while_gin_is_read(macro, wrong, right, expected):
    folders = ("models/t5_1_1_small_prompt.gin", "runs/prompt_finetune.gin")
    needed = ["MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "MIXTURE_OR_TASK_NAME", "VOCABULARY_FILE"]
    bindings = [f"{name} = 'x'" for name in needed]
    bindings.append("TASK_FEATURE_LENGTHS = {'inputs': 1, 'targets': 1}")

    def parse(value):
        flags = RunFlags(gin_files=folders, gin_bindings=(*bindings, f"{macro} = {value!r}"))
        gin_config.parse(flags, engine="local", check=options.check)

    parse(right)
    with pytest.raises(InputError, match=re.escape(f"{macro} is {wrong!r}, expected {expected}")):
        parse(wrong)


def test_options_from_python_are_checked_like_those_from_gin():
    common = {"model": make_model(), "checkpoint_path": "x", "optimizer": None, "model_dir": "x"}
    common["task_feature_lengths"] = {"inputs": 1, "targets": 1}
    options.TrainingOptions(**common)
    with pytest.raises(InputError, match="EVAL_PERIOD is 0, expected a whole number of at least 1"):
        options.TrainingOptions(**common, eval_period=0)
    with pytest.raises(InputError, match="INITIAL_CHECKPOINT_PATH is '', expected a text"):
        options.TrainingOptions(**{**common, "checkpoint_path": ""})
    with pytest.raises(InputError, match="MODEL is None, expected an EncoderDecoderModel"):
        options.TrainingOptions(**{**common, "model": None})


def test_a_label_with_pieces_outside_the_table(project, golden, complaint):
    np.save(project / "table.npy", golden("tiny_params")["token_embedder/embedding"][:8])
    flags = training_flags("prompts/from_class_labels_numpy.gin", EMBEDDING_FILE="table.npy")
    line = complaint(["train", *flags])
    assert "'bad'" in line
    assert "8 rows" in line


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        ("init_vocabb", "did you mean 'init_vocab'"),
        ("init_twice", "one 1.0"),
        ("init_twice", "two 1.0"),
        ("init_raising", "'init_raising' of raising 1.0 fails to import: OSError: no licence"),
        ("init_lacking", "there is no 'absent' in it"),
        ("init_number", "type int, which cannot be called"),
        ("init_future", "requires 'prompt-tuning-core>=9'"),
        # Plugins that import nothing of ours raise a ValueError.
        ("init_refusing", "plugin 'init_refusing' of refusing 1.0: no luck today"),
        ("init_narrow", "plugin 'init_narrow' of narrow 1.0: 3 numbers wide, not 32 (/"),
    ],
)
def test_plugins(site, plugin, expected, complaint):
    factory = "def f():\n    return lambda rng, shape: None\n"
    refusing = "def f():\n    raise ValueError('no luck today')\n"
    narrow = (
        "def f():\n"
        "    def initialize(rng, shape):\n"
        "        raise ValueError(f'3 numbers wide, not {shape[1]}')\n"
        "    return initialize\n"
    )
    for name, points, source, requires in [
        ("one", {"init_twice": "one:f"}, factory, ()),
        ("two", {"init_twice": "two:f"}, factory, ()),
        ("raising", {"init_raising": "raising:f"}, "raise OSError('no licence')\n", ()),
        ("lacking", {"init_lacking": "lacking:absent", "init_number": "lacking:X"}, "X = 1\n", ()),
        ("refusing", {"init_refusing": "refusing:f"}, refusing, ()),
        ("narrow", {"init_narrow": "narrow:f"}, narrow, ()),
        ("future", {"init_future": "future:f"}, factory, ["prompt-tuning-core>=9"]),
    ]:
        site.distribution(name, {"initializers": points}, {f"{name}.py": source}, requires=requires)
    flags = training_flags(**{"plugins.prompt_basic.prompt_init": None})
    flags.append(f"--gin.plugins.prompt_basic.prompt_init=@plugins.{plugin}()")
    assert expected in complaint(["train", *flags])


# Each is a plugin of its own name: gin keeps the first class of a name in a process.
MODULES = """
import jax.numpy as jnp
from prompt_tuning_core.prompts import InputPrompt

class Rows(InputPrompt):
    def setup(self):
        self.prompt = self.parameter("prompt", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens, embedded):
        return self.prompt[None]

class Late(Rows):
    def start(self, tokens):
        return {"first": tokens[:, 0], "lengths": (tokens > 0).sum(0)}

class Mean(Rows):
    def penalty(self):
        return jnp.log(-jnp.square(self.prompt).sum())

class Narrow(Rows):
    def rows(self, tokens, embedded):
        return self.prompt[None, :, 1:]
"""


@pytest.mark.parametrize(
    ("module", "settings", "expected"),
    [
        # A beam search could not gather the lengths of all positions.
        (
            "prompt_late", {},
            "'prompt_late' of wrong 1.0: start returned int32 [3], expected arrays whose first "
            "axis is 2",
        ),
        ("prompt_mean", {}, "'prompt_mean' of wrong 1.0: penalty returned nan, expected a finite"),
        (
            "prompt_narrow", {},
            "'prompt_narrow' of wrong 1.0: rows returned the shape [1, 5, 31], expected [1 or 1, "
            "5, 32]",
        ),
        (
            "prompt_basic", {"sides": ("encoder", "image")},
            "sides is ('encoder', 'image'), expected a tuple of 'encoder' and 'decoder', the "
            "stacks of this model",
        ),
        # The table has vectors of 32 numbers, and this part of the prompt is narrower.
        (
            "prompt_multitask",
            {"how": "concatenate_features", "tasks": 2, "sentinel": 63, "task_features": 8},
            "32 numbers, but the prompt needs 24",
        ),
    ],
)  # fmt: skip
def test_prompt_modules(site, module, settings, expected, complaint):
    points = {f"prompt_{name}": f"wrong:{name.title()}" for name in ("late", "mean", "narrow")}
    site.distribution("wrong", {"prompts": points}, {"wrong.py": MODULES})
    flags = training_flags(**{f"plugins.{module}.{n}": value for n, value in settings.items()})
    line = complaint(["train", *flags, f"--gin.PROMPT=@plugins.{module}"])
    assert expected in line


def test_models(project, golden, complaint):
    params = golden("tiny_params")
    path = project / "model" / "model.safetensors"
    name = "encoder/layers_1/mlp/wo/kernel"

    assert "model nowhere: there is no such file" in complaint(
        ["train", *training_flags(INITIAL_CHECKPOINT_PATH="nowhere")]
    )
    line = complaint(["train", *training_flags(MLP_DIM=48)])
    assert "'decoder/layers_0/mlp/wi_0/kernel'" in line
    assert "(32, 64)" in line
    assert "(32, 48)" in line
    safetensors.numpy.save_file({n: a for n, a in params.items() if n != name}, path)
    line = complaint(["train", *training_flags("prompts/from_random_uniform.gin")])
    assert f"1 parameters are missing, the first is '{name}'" in line
    safetensors.numpy.save_file({**params, "decoder/extra": params[name]}, path)
    line = complaint(["train", *training_flags("prompts/from_random_uniform.gin")])
    assert "'decoder/extra'" in line
    broken = params[name].copy()
    for value in (np.nan, np.inf):
        broken[-1, -1] = value
        safetensors.numpy.save_file({**params, name: broken}, path)
        line = complaint(["train", *training_flags("prompts/from_random_uniform.gin")])
        assert f"model model: the parameter '{name}' has values that are not finite" in line
    path.write_bytes(path.read_bytes()[:-100])
    line = complaint(["train", *training_flags("prompts/from_random_uniform.gin")])
    assert "not a readable safetensors file" in line


def test_vocabularies(project, complaint):
    line = complaint(["train", *training_flags(VOCABULARY_FILE=None)])
    assert "VOCABULARY_FILE is not set, and the model model is a folder that holds no vocab" in line
    flags = training_flags(**{"vocabularies.SentencePieceVocabulary.extra_ids": 39})
    line = complaint(["train", *flags])
    assert "vocabulary.model has 65 ids, 39 of them extra ids that are not in the file" in line
    assert "NUM_EMBEDDINGS = 64; give the model's vocabulary" in line


def test_texts_to_evaluate_that_are_too_long(project, complaint):
    (project / "long.jsonl").write_text('{"text": "this is a test", "label": 1}\n')
    changes = {
        "STRICT_LENGTHS": True,
        "TASK_FEATURE_LENGTHS": {"inputs": 9, "targets": 6},
        "toy/tasks.TextTask.splits": {"train": "short.jsonl", "validation": "long.jsonl"},
    }
    (project / "short.jsonl").write_text('{"text": "this", "label": 1}\n')
    line = complaint(["train", *training_flags(**changes)])
    assert "long.jsonl:1: the inputs have 10 ids" in line


def test_a_metric_that_returns_no_mapping(project, run_here):
    source = "def half(targets, predictions):\n    return 0.5\n"
    (project / "metric_of_half.py").write_text(source)
    with (project / "task.gin").open("a") as file:
        file.write("import metric_of_half\ntoy/tasks.TextTask.metrics = [@metric_of_half.half]\n")
    finished = run_here(["train", *training_flags()], project)
    assert finished.returncode == 2, finished.stderr
    assert "the metric half returned 0.5; expected a mapping of names" in finished.stderr


def test_task_modules_that_raise(project, complaint):
    (project / "raising_tasks.py").write_text("raise RuntimeError('no data today')\n")
    line = complaint(["train", *training_flags(MIXTURE_OR_TASK_MODULE="raising_tasks")])
    assert "'raising_tasks' fails to import: RuntimeError: no data today" in line


@pytest.mark.parametrize("how", ["module", "gin"])
def test_without_seqio_the_command_that_installs_it_is_given(project, how):
    # An environment without it, whatever this one has.
    (project / "seqio.py").write_text(
        "raise ModuleNotFoundError('No module named ' + repr(__name__), name=__name__)\n"
    )
    (project / "my_tasks.py").write_text("import seqio\n")
    flags = training_flags(MIXTURE_OR_TASK_MODULE="my_tasks" if how == "module" else None)
    if how == "gin":
        (project / "more.gin").write_text(
            "from __gin__ import dynamic_registration\nimport my_tasks\n"
        )
        flags.append("--gin_file=more.gin")
    line = complaint_of_a_process(
        ["train", *flags], project, PYTHONPATH=str(project), PYTHONDONTWRITEBYTECODE="1"
    )
    assert "No module named 'seqio'" in line
    assert "pip install 'prompt-tuning-engine-local[seqio]'" in line


def test_a_run_without_its_gin_file_is_told_which(project):
    flags = ["--gin_file=models/t5_1_1_small_prompt.gin", *gin_flags(VOCABULARY_FILE="x")]
    # An earlier run of this process would have registered what no file configures here.
    line = complaint_of_a_process(["train", *flags], project)
    assert "add --gin_file=runs/prompt_finetune.gin" in line


def test_a_directory_that_holds_prompts_of_no_known_run(project, complaint):
    (project / "run").mkdir()
    np.save(project / "run" / "prompt_3.npy", np.ones((5, 32), np.float32))
    line = complaint(["train", *training_flags()])
    assert "MODEL_DIR run holds prompt_3.npy and no run.json" in line


def test_a_loss_that_is_not_finite_stops_the_run(project, run_here):
    np.save(project / "huge.npy", np.full((5, 32), 3e38, np.float32))
    flags = training_flags("prompts/from_file.gin", PROMPT_FILE="huge.npy")
    finished = run_here(["train", *flags], project)
    assert finished.returncode == 2, finished.stderr
    assert "the loss is nan at step" in finished.stderr
    # What diverged is not saved.
    assert "the last prompt saved is run/prompt_0.npy; lower the learning" in finished.stderr
    assert [path.name for path in (project / "run").glob("prompt_*.npy")] == ["prompt_0.npy"]


def test_an_initial_prompt_that_is_not_finite_is_refused(site, complaint):
    source = "import numpy\ndef f():\n    return lambda rng, shape: numpy.full(shape, numpy.nan)\n"
    points = {"initializers": {"init_nan": "init_nan:f"}}
    site.distribution("init_nan", points, {"init_nan.py": source})
    flags = training_flags("prompts/from_random_uniform.gin")
    flags.append("--gin.plugins.prompt_basic.prompt_init=@plugins.init_nan()")
    line = complaint(["train", *flags])
    assert "parameter 'prompt/prompt' has values that are not finite" in line
