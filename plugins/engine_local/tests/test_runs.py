"""Training, evaluating and inferring from the command line, as a person does it."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from tiny import (
    ROWS,
    SIZES,
    TASK,
    TINY,
    TRAINING,
    gin_flags,
    run_python,
    training_flags,
)

from prompt_tuning_core.commands.main import main as run_main
from prompt_tuning_engine_local.runs import evaluation, inference
from prompt_tuning_files import prompt_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quick_compile,
    # The tiny table has 64 rows.
    pytest.mark.filterwarnings("ignore:population_size is 5000:UserWarning"),
]

SCHEMES = {
    "prompts/from_random_uniform.gin": {},
    "prompts/from_sampled_vocab.gin": {},
    "prompts/from_sampled_vocab_numpy.gin": {"EMBEDDING_FILE": "table.npy"},
    "prompts/from_class_labels.gin": {},
    "prompts/from_class_labels_numpy.gin": {"EMBEDDING_FILE": "table.npy"},
    "prompts/from_string.gin": {"PROMPT_STRING": "this"},
    "prompts/from_string_numpy.gin": {"PROMPT_STRING": "this", "EMBEDDING_FILE": "table.npy"},
    "prompts/from_file.gin": {"PROMPT_FILE": "given.npy"},
}


@pytest.fixture(scope="module")
def trained_once(make_project):
    folder = make_project()
    with contextlib.chdir(folder):
        assert run_main(["train", *training_flags()]) == 0
    return folder


@pytest.fixture
def succeed(run_here):
    """Runs a command in this process, in a folder."""

    def run(arguments, folder):
        finished = run_here(arguments, folder)
        assert finished.returncode == 0, finished.stderr
        return finished

    return run


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of a project with its run, which the test may change."""
    return shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)


def test_training_leaves_prompts_provenance_config_and_curves(trained):
    run = trained / "run"
    for step in (2, 4):
        prompt = np.load(run / f"prompt_{step}.npy", allow_pickle=False)
        assert prompt.shape == (5, 32)
        assert prompt.dtype == np.float32
    facts = json.loads((run / "prompt_4.json").read_text())
    assert facts["step"] == 4
    assert facts["seed"] == 0
    assert facts["shape"] == [5, 32]
    assert facts["task"]["name"] == "toy"
    assert facts["model"]["emb_dim"] == 32
    assert set(facts["metrics"]["validation"]) == {"exact_match", "accuracy"}
    assert "prompt_init/plugins.init_labels.texts = %CLASS_LABELS" in facts["initializer"]
    assert {"prompt_basic", "init_labels", "init_vocab"} <= {p["name"] for p in facts["plugins"]}
    assert (run / "config.gin").read_text() == facts["config"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        "run.json", "config.gin", "metrics.jsonl", "curves.png", "tensorboard", "state",
        "prompt_0.npy", "prompt_0.json", "prompt_2.npy", "prompt_2.json",
        "prompt_4.npy", "prompt_4.json",
        "toy-validation-metrics.json", "toy-validation-predictions.jsonl",
    }  # fmt: skip


def test_the_commands_that_compare_runs_read_it(trained, succeed):
    task = json.loads(succeed(["runs", "run", "--json"], trained).stdout)["tasks"][0]
    (found,) = task["groups"][0]["runs"]
    assert (task["task"], task["metrics"][0]["name"]) == ("toy", "exact_match")
    assert (found["last_step"], found["has_ended"]) == (4, True)
    assert found["seconds"] > 0
    succeed(["report", "run"], trained)
    page = (trained / "report.html").read_text()
    assert "toy: prompt_basic, init_labels, seed 0" in page
    assert "nearest pieces, with their cosines" in page


def test_the_untrained_prompt_is_saved_with_what_it_is_worth(trained, golden, succeed):
    np.save(trained / "given.npy", golden("tiny_prompt")["encoder/prompt/prompt/prompt"])
    flags = training_flags("prompts/from_file.gin", PROMPT_FILE="given.npy", MODEL_DIR="from_file")
    succeed(["train", *flags], trained)
    saved, facts = prompt_files.read(trained / "from_file" / "prompt_0.npy")
    np.testing.assert_array_equal(saved, np.load(trained / "given.npy"))
    assert facts["step"] == 0
    rows = (trained / "from_file" / "metrics.jsonl").read_text().splitlines()
    evaluated = {f"eval/{name}": v for name, v in facts["metrics"]["validation"].items()}
    first = json.loads(rows[0])
    assert first.pop("seconds") > 0
    assert first == {"step": 0, **evaluated}
    assert json.loads(rows[-1]).items() > {"step": 4, "ended": True}.items()


def test_the_written_config_repeats_the_run(trained, succeed):
    again = ["train", "--gin_file=run/config.gin", *gin_flags(MODEL_DIR="again")]
    succeed(again, trained)
    first, second = (np.load(trained / run / "prompt_4.npy") for run in ("run", "again"))
    np.testing.assert_array_equal(first, second)


def test_the_seed_decides(trained, succeed):
    prompts = [np.load(trained / "run" / "prompt_4.npy")]
    for run, seed in (("same", 0), ("other", 8)):
        succeed(["train", *training_flags(MODEL_DIR=run, RANDOM_SEED=seed)], trained)
        prompts.append(np.load(trained / run / "prompt_4.npy"))
    np.testing.assert_array_equal(prompts[0], prompts[1])
    assert not np.array_equal(prompts[0], prompts[2])


@pytest.mark.parametrize("prompt_file", SCHEMES)
def test_every_scheme_trains(project, golden, prompt_file, succeed):
    np.save(project / "table.npy", golden("tiny_params")["token_embedder/embedding"])
    np.save(project / "given.npy", golden("tiny_prompt")["encoder/prompt/prompt/prompt"])
    changes = {"TRAIN_STEPS": 2, **SCHEMES[prompt_file]}
    succeed(["train", *training_flags(prompt_file, **changes)], project)
    assert (project / "run" / "prompt_2.npy").exists()


def test_sizes_that_no_gin_file_names_are_the_checkpoints(trained, succeed):
    unnamed = {**dict.fromkeys(SIZES), "MIXTURE_OR_TASK_NAME": "toy"}

    def files(*names):
        return [f"--gin_file={name}" for name in ("models/t5_prompt.gin", "task.gin", *names)]

    training = gin_flags(
        **{**TRAINING, **unnamed, "MODEL_DIR": "again", "CLASS_LABELS": ["bad", "this"]}
    )
    succeed(
        ["train", *files("prompts/from_class_labels.gin", "runs/prompt_finetune.gin"), *training],
        trained,
    )
    first, second = (np.load(trained / run / "prompt_4.npy") for run in ("run", "again"))
    np.testing.assert_array_equal(first, second)

    (trained / "texts.txt").write_text("this is\n")
    using = {**TINY, **unnamed, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "again"}
    for command, output in (("eval", "EVAL_OUTPUT_DIR"), ("infer", "INFER_OUTPUT_DIR")):
        flags = {**using, output: command}
        if command == "infer":
            flags["INFER_INPUT_FILE"] = "texts.txt"
        succeed([command, *files(f"runs/prompt_{command}.gin"), *gin_flags(**flags)], trained)
    assert (trained / "eval" / "toy-test-metrics.json").exists()
    assert (trained / "infer" / "texts.txt-predictions.jsonl").exists()


def test_the_vocabulary_in_the_models_own_folder_is_the_default(trained, succeed):
    shutil.move(trained / "vocabulary.model", trained / "model" / "spiece.model")
    succeed(["train", *training_flags(MODEL_DIR="again", VOCABULARY_FILE=None)], trained)
    succeed(["train", *training_flags(MODEL_DIR="folder", VOCABULARY_FILE="model")], trained)
    first = json.loads((trained / "run" / "prompt_4.json").read_text())["vocabulary"]
    for run in ("again", "folder"):
        known = json.loads((trained / run / "prompt_4.json").read_text())["vocabulary"]
        assert known == {**first, "path": "model/spiece.model"}
        np.testing.assert_array_equal(
            *(np.load(trained / r / "prompt_4.npy") for r in ("run", run))
        )
    files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_eval.gin"]
    macros = {**TINY, "CHECKPOINT_PATH": "model", "EVAL_OUTPUT_DIR": "out", "PROMPT_FILE": "run"}
    flags = gin_flags(**{**macros, "VOCABULARY_FILE": None})
    succeed(["eval", *(f"--gin_file={f}" for f in files), *flags], trained)
    assert (trained / "out" / "toy-test-metrics.json").exists()


@pytest.mark.parametrize("prompt_file", ["run", "run/prompt_4.npy"])
def test_eval_of_a_prompt_file_or_of_the_runs_directory(trained, prompt_file, succeed):
    files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_eval.gin"]
    macros = {**TINY, "CHECKPOINT_PATH": "model", "EVAL_OUTPUT_DIR": "out", "EVAL_SPLIT": "test"}
    flags = gin_flags(**macros, PROMPT_FILE=prompt_file)
    finished = succeed(["eval", *(f"--gin_file={f}" for f in files), *flags], trained)
    metrics = json.loads((trained / "out" / "toy-test-metrics.json").read_text())
    assert metrics["examples"] == 5
    assert f"{metrics['exact_match']:.4f}" in finished.stdout
    lines = (trained / "out" / "toy-test-predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["targets"] for row in rows] == ["this", "that", "this", "that", "this"]
    share = np.mean([row["targets"] == row["prediction"] for row in rows])
    assert metrics["exact_match"] == pytest.approx(share)
    # Validation is the same file, so the run itself saw the same metrics and answers.
    for name in ("predictions.jsonl", "metrics.json"):
        own = (trained / "run" / f"toy-validation-{name}").read_text()
        assert own.replace("validation", "test") == (trained / f"out/toy-test-{name}").read_text()
    facts = json.loads((trained / "run" / "prompt_4.json").read_text())
    assert metrics["exact_match"] == facts["metrics"]["validation"]["exact_match"]


def using(command, **changes):
    """Returns the flags of a command that leaves to the prompt what its provenance knows."""
    files = ["models/t5_1_1_small_prompt.gin", "task.gin", f"runs/prompt_{command}.gin"]
    macros = {
        **SIZES, "vocabularies.SentencePieceVocabulary.extra_ids": 38, "CHECKPOINT_PATH": "model",
        "PROMPT_FILE": "run", f"{command.upper()}_OUTPUT_DIR": "out",
    }  # fmt: skip
    return [command, *(f"--gin_file={f}" for f in files), *gin_flags(**{**macros, **changes})]


def test_eval_and_infer_take_from_the_prompt_what_is_not_given(trained, succeed):
    finished = succeed(using("eval", CHECKPOINT_PATH=None), trained)
    assert finished.stdout.startswith(
        "prompt: run/prompt_4.npy, step 4\n"
        "from this prompt: PROMPT_LENGTH = 5\n"
        "from this prompt: MIXTURE_OR_TASK_NAME = 'toy'\n"
        "from this prompt: TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 6}\n"
        "from this prompt: CHECKPOINT_PATH = 'model'\n"
        "from this prompt: VOCABULARY_FILE = 'vocabulary.model'\n"
    )
    found = json.loads((trained / "out" / "toy-test-metrics.json").read_text())
    facts = json.loads((trained / "run" / "prompt_4.json").read_text())
    assert found["exact_match"] == facts["metrics"]["validation"]["exact_match"]

    # What the person gives wins, on the command line and in a file.
    (trained / "own.gin").write_text("TASK_FEATURE_LENGTHS = {'inputs': 4, 'targets': 6}\n")
    with pytest.warns(UserWarning, match="inputs are longer than 4 ids and were cut"):
        finished = succeed([*using("eval"), "--gin_file=own.gin"], trained)
    assert "TASK_FEATURE_LENGTHS" not in finished.stdout

    # With the task comes its template; None leaves it out.
    (trained / "task.gin").write_text(TASK.replace("'{text}'", "'this {text}'"))
    (trained / "texts.txt").write_text("a test\n")
    for task, inputs in ((), "this a test"), (("--gin.MIXTURE_OR_TASK_NAME=None",), "a test"):
        succeed([*using("infer", INFER_INPUT_FILE="texts.txt"), *task], trained)
        (row,) = (trained / "out" / "texts.txt-predictions.jsonl").read_text().splitlines()
        assert json.loads(row)["inputs"] == inputs


def test_a_module_of_tasks_is_imported_only_if_it_is_named(project, succeed, run_here):
    (project / "own.py").write_text(
        "import prompt_tuning_tasks as tasks\n"
        "splits = {name: 'rows.jsonl' for name in ('train', 'validation', 'test')}\n"
        "tasks.register(tasks.TextTask('own', splits, '{text}', 'this'))\n"
    )
    task = {"MIXTURE_OR_TASK_NAME": "own", "MIXTURE_OR_TASK_MODULE": "own"}
    succeed(["train", *training_flags(TRAIN_STEPS=1, **task)], project)
    (project / "own.py").rename(project / "own_tasks.py")
    refused = run_here(using("eval"), project)
    assert refused.returncode == 2
    assert "is in the Python module 'own', which is no plugin; if you trust it" in refused.stderr
    succeed(using("eval", MIXTURE_OR_TASK_MODULE="own_tasks"), project)
    assert (project / "out" / "own-test-metrics.json").exists()


INITIALIZER = """
import gin
import jax.numpy as jnp

@gin.configurable(module="own_initializer")
def ones(scale=1.0):
    return lambda rng, shape: jnp.full(shape, scale)
"""
OWN = """
from __gin__ import dynamic_registration
import own_initializer
import prompt_tuning_tasks as tasks
from prompt_tuning_core import prompts

prompts.make.prompt_init = @own_initializer.ones()
own_initializer.ones.scale = 0.5
team/toy/tasks.TextTask:
  splits = {'train': 'rows.jsonl', 'validation': 'rows.jsonl'}
  inputs = '{text}'
  targets = 'this'
"""


def test_an_initializer_of_a_module_is_recorded_and_repeated(project, succeed):
    (project / "own_initializer.py").write_text(INITIALIZER)
    (project / "own.gin").write_text(OWN)
    flags = training_flags(TRAIN_STEPS=1, MIXTURE_OR_TASK_NAME="team/toy")
    succeed(["train", *flags, "--gin_file=own.gin"], project)
    assert (np.load(project / "run" / "prompt_0.npy") == 0.5).all()
    facts = json.loads((project / "run" / "prompt_1.json").read_text())
    assert facts["task"]["name"] == "team/toy"
    assert "own_initializer.ones.scale = 0.5" in " ".join(facts["initializer"])
    assert any(
        line.endswith("prompt_init = @own_initializer.ones()") for line in facts["initializer"]
    )
    succeed(["train", "--gin_file=run/config.gin", "--gin.MODEL_DIR='again'"], project)
    prompts = [np.load(project / run / "prompt_1.npy") for run in ("run", "again")]
    np.testing.assert_array_equal(*prompts)


def test_values_that_contradict_the_prompt_are_refused(trained, succeed, run_here):
    wrong = run_here(using("eval", PROMPT_LENGTH=4), trained)
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "prompt-tuning: error: PROMPT_LENGTH is 4, and the prompt run/prompt_4.npy has 5 "
        "positions; leave PROMPT_LENGTH out, or give another PROMPT_FILE\n"
    )
    (trained / "vocabulary.model").rename(trained / "moved.model")
    gone = run_here(using("eval"), trained)
    assert gone.returncode == 2
    # Then it would be the model's own, and this model has none.
    assert gone.stderr.startswith("prompt-tuning: error: VOCABULARY_FILE is not set, and the model")
    assert gone.stderr.count("\n") == 1
    succeed(using("eval", VOCABULARY_FILE="moved.model"), trained)


@pytest.mark.parametrize(
    ("prompt_file", "step"), [("run", 4), ("run/prompt_2.npy", 2), ("bare.npy", 1000)]
)
def test_hooks_are_told_the_step_of_the_prompt_that_is_evaluated(
    trained, site, golden, succeed, prompt_file, step
):
    # A prompt of no known step has the model's.
    shutil.copy(trained / "run" / "prompt_2.npy", trained / "bare.npy")
    (trained / "model").mkdir(exist_ok=True)
    safetensors.numpy.save_file(
        golden("tiny_params"), trained / "model" / "model.safetensors", {"step": "1000"}
    )
    source = (
        "from prompt_tuning_core.hookspecs import hookimpl\n"
        "@hookimpl\n"
        "def evaluated(step): print('told', step)\n"
    )
    site.distribution("teller", {"hooks": {"teller": "teller"}}, {"teller.py": source})
    files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_eval.gin"]
    macros = {**TINY, "CHECKPOINT_PATH": "model", "EVAL_OUTPUT_DIR": "out"}
    flags = gin_flags(**macros, PROMPT_FILE=prompt_file)
    finished = succeed(
        ["eval", *(f"--gin_file={f}" for f in files), *flags, "--hooks=teller"], trained
    )
    assert f"told {step}\n" in finished.stdout


def test_an_output_place_is_checked_before_anything_is_decoded(trained, main, monkeypatch):
    monkeypatch.chdir(trained)
    (trained / "occupied").write_text("")
    (trained / "texts.txt").write_text("this is\n")
    common = {**TINY, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run"}

    def run(command, output, **more):
        named = {f"{command.upper()}_OUTPUT_DIR": output}
        files = ["models/t5_1_1_small_prompt.gin", "task.gin", f"runs/prompt_{command}.gin"]
        flags = gin_flags(**{**common, **named, **more})
        return main(command, *(f"--gin_file={file}" for file in files), *flags)

    for command, more in (("eval", {}), ("infer", {"INFER_INPUT_FILE": "texts.txt"})):
        code, _, error = run(command, "occupied", **more)
        assert code == 2
        assert f"{command.upper()}_OUTPUT_DIR occupied is not a directory that can be" in error
        code, _, error = run(command, "gs://bucket/out", **more)
        assert code == 2
        assert f"{command.upper()}_OUTPUT_DIR is 'gs://bucket/out', expected the path" in error
        assert not (trained / "gs:").exists()


def test_answers_are_kept_when_the_disk_is_full(trained, main, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setattr(evaluation, "_BATCHES_OF_A_PART", 1)
    texts = "this is\n" * 7
    (trained / "many.txt").write_text(texts)
    files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_infer.gin"]
    macros = {**TINY, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run", "INFER_OUTPUT_DIR": "out"}
    flags = gin_flags(**macros, INFER_INPUT_FILE="many.txt")
    command = ["infer", *(f"--gin_file={file}" for file in files), *flags]
    assert main(*command)[0] == 0
    code, out, _ = main(*command)
    assert code == 0
    assert "7 predictions: out/many.txt-predictions.jsonl (replaced)" in out

    def fail(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference.os, "fsync", fail)
    code, _, error = main(*command)
    assert code == 2
    assert "many.txt-predictions.jsonl: cannot be written (No space left on device)" in error
    kept = (trained / "out" / "many.txt-predictions.jsonl.partial").read_text().splitlines()
    assert len(kept) == 7


@pytest.fixture
def infer(trained, succeed):
    """Writes a file of inputs, and returns the rows of the answers to it."""

    def answers(name, content, **changes):
        (trained / name).write_bytes(content)
        files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_infer.gin"]
        macros = {**TINY, "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run", **changes}
        flags = gin_flags(**macros, INFER_INPUT_FILE=name, INFER_OUTPUT_DIR="out")
        succeed(["infer", *(f"--gin_file={f}" for f in files), *flags], trained)
        # Not splitlines(): JSON lines may hold characters at which that splits too.
        lines = (trained / "out" / f"{name}-predictions.jsonl").read_text().strip().split("\n")
        return [json.loads(line) for line in lines]

    return answers


def test_infer_keeps_order_and_answers_every_line(infer):
    texts = ["this is", "", "a test", "this is", "bad\u2028sad"]
    rows = infer("texts.txt", "\n".join([*texts, ""]).encode(), MIXTURE_OR_TASK_NAME=None)
    assert [row["inputs"] for row in rows] == texts
    assert rows[0]["prediction"] == rows[3]["prediction"]
    as_json = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    from_task = infer("rows2.jsonl", as_json.encode())
    # The task's template is the text itself.
    assert from_task == rows


def test_frozen_parameters_do_not_change_and_hooks_see_the_run(trained, site, succeed):
    watcher = (
        "import json, pathlib\n"
        "import jax, numpy as np, safetensors.numpy\n"
        "from prompt_tuning_core.hookspecs import hookimpl\n"
        "calls = []\n"
        "@hookimpl\n"
        "def prompt_initialized(prompt): calls.append(['initialized', list(prompt.shape)])\n"
        "@hookimpl\n"
        "def step_logged(step, metrics): calls.append(['step', step])\n"
        "@hookimpl\n"
        "def evaluated(step, metrics): calls.append(['evaluated', step])\n"
        "@hookimpl\n"
        "def prompt_saved(paths, provenance): calls.append(['saved', provenance['step']])\n"
        "@hookimpl\n"
        "def run_finished(run):\n"
        "    stored = safetensors.numpy.load_file('model/model.safetensors')\n"
        "    used = run.predictor.frozen\n"
        "    assert set(stored) == set(used)\n"
        "    assert all(np.array_equal(stored[n], used[n]) for n in stored)\n"
        "    pathlib.Path('calls.json').write_text(json.dumps(calls))\n"
    )
    site.distribution("watcher", {"hooks": {"watcher": "watcher"}}, {"watcher.py": watcher})
    succeed(["train", *training_flags(MODEL_DIR="watched"), "--hooks=watcher"], trained)
    assert json.loads((trained / "calls.json").read_text()) == [
        ["initialized", [5, 32]], ["evaluated", 0], ["saved", 0],
        ["step", 1], ["step", 2], ["evaluated", 2], ["saved", 2],
        ["step", 3], ["step", 4], ["evaluated", 4], ["saved", 4],
    ]  # fmt: skip
    facts = json.loads((trained / "watched" / "prompt_4.json").read_text())
    assert {"kind": "hooks", "name": "watcher", "distribution": "watcher", "version": "1.0"} in (
        facts["plugins"]
    )


def test_no_command_imports_tensorflow(trained):
    commands = {
        "train": training_flags(MODEL_DIR="second"),
        "eval": [
            "--gin_file=models/t5_1_1_small_prompt.gin", "--gin_file=task.gin",
            "--gin_file=runs/prompt_eval.gin",
            *gin_flags(**TINY, CHECKPOINT_PATH="model", PROMPT_FILE="run", EVAL_OUTPUT_DIR="out"),
        ],
        "infer": [
            "--gin_file=models/t5_1_1_small_prompt.gin", "--gin_file=task.gin",
            "--gin_file=runs/prompt_infer.gin",
            *gin_flags(
                **TINY, CHECKPOINT_PATH="model", PROMPT_FILE="run", INFER_OUTPUT_DIR="out",
                INFER_INPUT_FILE="rows.jsonl",
            ),
        ],
    }  # fmt: skip
    program = (
        "import sys\n"
        "from prompt_tuning_core.commands.main import main\n"
        f"for command, flags in {commands!r}.items():\n"
        "    assert main([command, *flags]) == 0\n"
        "    heavy = {'tensorflow', 'seqio', 'torch', 't5x'} & set(sys.modules)\n"
        "    if heavy: sys.exit(f'{command} imported {heavy}')\n"
    )
    finished = run_python(["-c", program], trained)
    assert finished.returncode == 0, finished.stderr


def test_the_step_counts_from_the_models_own(project, golden, succeed):
    safetensors.numpy.save_file(
        golden("tiny_params"), project / "model" / "model.safetensors", {"step": "1000"}
    )
    succeed(["train", *training_flags(TRAIN_STEPS=1003)], project)
    succeed(
        ["train", *training_flags(MODEL_DIR="relative", TRAIN_STEPS_RELATIVE=3, TRAIN_STEPS=9)],
        project,
    )
    facts = [
        json.loads((project / run / "prompt_1003.json").read_text()) for run in ("run", "relative")
    ]
    assert [f["step"] for f in facts] == [1003, 1003]
    assert facts[0]["sha256"] == facts[1]["sha256"]
    # So does the optimizer, as T5X's does; its count is the first array.
    with ocp.StandardCheckpointer() as reader:
        saved = reader.restore(project / "run" / "state" / "1003" / "arrays")
    assert saved["optimizer"]["0000"] == 1003


def test_too_long_inputs_are_counted_and_said(project, succeed):
    lengths = {"inputs": 4, "targets": 6}
    with pytest.warns(UserWarning, match="inputs are longer than 4 ids and were cut"):
        succeed(["train", *training_flags(TASK_FEATURE_LENGTHS=lengths)], project)


MIXTURE = """
from __gin__ import dynamic_registration
from prompt_tuning_tasks import metrics
import prompt_tuning_tasks as tasks
import own_metrics

shouted/tasks.TextTask:
  splits = {'train': ['rows.csv.gz', 'rows.jsonl'], 'validation': 'rows.csv.gz'}
  inputs = 'this {text}'
  targets = '{label}'
  metrics = ['token_f1', @metrics.macro_f1, @own_metrics.length]
metrics.macro_f1.classes = ['0', '1', '2']

both/tasks.Mixture.rates = {'toy': 3, 'shouted': 1.0}
MIXTURE_OR_TASK_NAME = 'both'
"""


@pytest.fixture
def mixed(project):
    lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in ROWS)]
    (project / "rows.csv.gz").write_bytes(gzip.compress("\r\n".join(lines).encode()))
    (project / "own_metrics.py").write_text(
        "def length(targets, predictions):\n"
        "    return {'length': sum(map(len, predictions)) / len(predictions)}\n"
    )
    (project / "mixture.gin").write_text(MIXTURE)
    return project


# The tiny model has short lengths and few digits.
@pytest.mark.filterwarnings("ignore:.* longer than 12 ids and were cut:UserWarning")
@pytest.mark.filterwarnings("ignore:.*no answer can equal:UserWarning")
def test_a_mixture_trains_and_each_task_is_evaluated_by_its_own_metrics(mixed, succeed):
    flags = ["--gin_file=mixture.gin", *gin_flags(MIXTURE_OR_TASK_NAME="both")]
    succeed(["train", *training_flags(), *flags], mixed)
    facts = json.loads((mixed / "run" / "prompt_4.json").read_text())
    assert facts["task"]["name"] == "both"
    names = [
        "shouted/token_f1", "shouted/macro_f1", "shouted/length", "toy/exact_match", "toy/accuracy"
    ]  # fmt: skip
    assert list(facts["metrics"]["validation"]) == names

    # The written config describes the mixture, its tasks and their metrics.
    succeed(["train", "--gin_file=run/config.gin", *gin_flags(MODEL_DIR="again")], mixed)
    first, second = (np.load(mixed / run / "prompt_4.npy") for run in ("run", "again"))
    np.testing.assert_array_equal(first, second)

    files = ["models/t5_1_1_small_prompt.gin", "task.gin", "runs/prompt_eval.gin", "mixture.gin"]
    macros = {**TINY, "CHECKPOINT_PATH": "model", "EVAL_OUTPUT_DIR": "out", "PROMPT_FILE": "run"}
    macros |= {"EVAL_SPLIT": "validation", "MIXTURE_OR_TASK_NAME": "both"}
    succeed(["eval", *(f"--gin_file={f}" for f in files), *gin_flags(**macros)], mixed)
    found = {}
    for task in ("toy", "shouted"):
        metrics = json.loads((mixed / "out" / f"{task}-validation-metrics.json").read_text())
        found |= {f"{task}/{name}": value for name, value in metrics.items()}
        lines = (mixed / "out" / f"{task}-validation-predictions.jsonl").read_text().splitlines()
        assert len(lines) == metrics["examples"] == 5
    assert {name: found[name] for name in names} == facts["metrics"]["validation"]


def test_bucketing_and_shuffling_are_switched_off_by_one_macro_each(project, succeed):
    # Texts of several lengths, so that each switch matters.
    rows = [{"text": "this " * n, "label": n % 2} for n in range(1, 9)]
    (project / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = {"train": "many.jsonl", "validation": "rows.jsonl"}
    prompts = {}
    for run, macros in {"a": {}, "b": {"BUCKETING": False}, "c": {"SHUFFLE": False}}.items():
        lengths = {"inputs": 64, "targets": 6}
        changes = {"TASK_FEATURE_LENGTHS": lengths, "DROPOUT_RATE": 0.0, "TRAIN_STEPS": 1}
        changes |= {"toy/tasks.TextTask.splits": splits, **macros}
        succeed(["train", *training_flags(MODEL_DIR=run, **changes)], project)
        prompts[run] = np.load(project / run / "prompt_1.npy")
    assert not np.array_equal(prompts["a"], prompts["b"])
    assert not np.array_equal(prompts["a"], prompts["c"])


def test_infer_reads_compressed_tables_and_texts(infer):
    table = "text,label\r\nthis is,0\r\na test,1\r\n"
    rows = infer("rows.csv.gz", gzip.compress(table.encode()))
    texts = infer("texts.txt.xz", lzma.compress(b"this is\na test\n"))
    # The other columns come out with the answers.
    assert rows == [{**texts[0], "label": "0"}, {**texts[1], "label": "1"}]
    assert [row["inputs"] for row in rows] == ["this is", "a test"]


def test_infer_keeps_the_columns_that_the_template_leaves_out(infer):
    row = {"id": 7, "text": "this", "tags": ["a", {"b": None}], "score": 0.5}
    (answer,) = infer("rows.jsonl", json.dumps(row).encode())
    del row["text"]
    assert answer == {**row, "inputs": "this", "prediction": answer["prediction"]}


def test_two_devices_give_the_prompt_of_one(project, succeed):
    # Of one length, so that each device count is compiled for once.
    changes = {"BATCH_SIZE": 4, "TRAIN_STEPS": 6, "BUCKETING": False}
    flags = ["train", *training_flags(**changes)]
    odd = ["train", *training_flags(BATCH_SIZE=3, MODEL_DIR="odd")]
    program = (
        "from prompt_tuning_core.commands.main import main\n"
        f"assert main({odd!r}) == 2\n"
        f"assert main({flags!r}) == 0\n"
    )
    devices = "--xla_force_host_platform_device_count=2"
    two = run_python(["-c", program], project, XLA_FLAGS=devices)
    assert two.returncode == 0, two.stderr
    assert "BATCH_SIZE is 3, which 2 devices cannot share evenly" in two.stderr
    succeed(["train", *training_flags(MODEL_DIR="one", **changes)], project)
    prompts = [np.load(project / run / "prompt_6.npy") for run in ("run", "one")]
    np.testing.assert_allclose(*prompts, rtol=0, atol=1e-5 * np.abs(prompts[1]).max())


def eval_values(folder, name):
    """Returns the values of a metric of a run's evaluations, by step."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if f"eval/{name}" in row]
    return {row["step"]: row[f"eval/{name}"] for row in rows}


def test_the_validation_loss_is_that_of_training_on_the_same_examples(project, succeed):
    rows = len((project / "rows.jsonl").read_text().splitlines())
    flags = training_flags(
        EVAL_LOSS=True, BATCH_SIZE=rows, BUCKETING=False, DROPOUT_RATE=0.0, Z_LOSS=0.0,
        TRAIN_STEPS=2, EVAL_PERIOD=1,
    )  # fmt: skip
    succeed(["train", *flags], project)
    found = eval_values(project / "run", "loss")
    lines = (project / "run" / "metrics.jsonl").read_text().splitlines()
    trained = {
        row["step"]: row["train/loss_per_nonpadding_target_token"]
        for row in map(json.loads, lines)
        if "train/loss" in row
    }
    # Training's is that of the prompt before the step.
    assert found[0] == pytest.approx(trained[1], rel=1e-5)
    assert found[1] == pytest.approx(trained[2], rel=1e-5)
    answers = (project / "run" / "toy-validation-predictions.jsonl").read_text().splitlines()
    scores = [json.loads(line)["score"] for line in answers]
    assert len(scores) == rows
    # The loss is that of each token, and a target has a few.
    tokens = -np.sum(scores) / found[2]
    assert tokens == pytest.approx(round(tokens), rel=1e-5)
    assert 2 * rows <= tokens <= 6 * rows


def test_the_prompt_of_the_lowest_loss_is_the_best(project, succeed):
    # So large a rate that the loss rises.
    flags = training_flags(
        BEST_METRIC="loss", EVAL_PERIOD=1, SAVE_PERIOD=1,
        **{"optimizers.adafactor.learning_rate": 30.0},
    )  # fmt: skip
    succeed(["train", *flags], project)
    found = eval_values(project / "run", "loss")
    best = min(found, key=found.get)
    assert found[best] < max(found.values())
    provenance = json.loads((project / "run" / "best_prompt.json").read_text())
    assert provenance["step"] == best
    assert provenance["metrics"]["validation"]["loss"] == found[best]


def test_a_run_ends_when_evaluations_get_no_better(project, succeed):
    # Answers of random weights are never right, so no value is above the first.
    flags = training_flags(
        BEST_METRIC="exact_match", EARLY_STOPPING=2, EVAL_PERIOD=2, SAVE_PERIOD=3, TRAIN_STEPS=20
    )
    finished = succeed(["train", *flags], project)
    assert eval_values(project / "run", "exact_match") == {0: 0.0, 2: 0.0, 4: 0.0}
    line = "ended at step 4: the last 2 evaluations gave no better exact_match (EARLY_STOPPING)\n"
    assert line in finished.stdout
    assert prompt_files.newest(project / "run").name == "prompt_4.npy"
    again = succeed(["train", *flags], project)
    assert line in again.stdout
    assert prompt_files.newest(project / "run").name == "prompt_4.npy"
    more = training_flags(
        BEST_METRIC="exact_match", EARLY_STOPPING=3, EVAL_PERIOD=2, SAVE_PERIOD=3, TRAIN_STEPS=20
    )
    assert "ended at step 6: the last 3" in succeed(["train", *more], project).stdout
