"""Mutated files of every reader: each is read, or is an error of one line that names it.

`make fuzz` runs this file, and `make test` does not: each reader is tried for FUZZ_SECONDS. What it
finds becomes a row of a table of bad input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import shlex
import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gin
import golden_data
import numpy as np
import pytest
import rich.console
import safetensors.numpy
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import prompt_tuning_tasks as tasks
from prompt_tuning_core import gin_config
from prompt_tuning_core.commands.main import main
from prompt_tuning_core.commands.text_tables import printable
from prompt_tuning_core.errors import PromptTuningError
from prompt_tuning_core.protocols import RunFlags
from prompt_tuning_engine_local.runs.reporting import TrainingReport
from prompt_tuning_engine_local.runs.state_store import StateStore, TrainingState
from prompt_tuning_files import embeddings, module_files, prompt_files, run_files
from prompt_tuning_init_file import init_file
from prompt_tuning_testing.pytest_plugin import Site
from prompt_tuning_testing.strangers import STRANGERS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SLOWEST = 20.0
"""Seconds that one file may take."""
MEMORY = 2 * 2**20
"""KiB by which one file may raise the peak of memory."""
LONGEST = 2100
"""Characters that an answer on the terminal may have."""

PLUGINS = Path(__file__).parents[1] / "plugins"

# Values that readers forget.
ODD = [
    *b"null true false NaN Infinity -1 0 -0.0 1e400 1.5 [] {} [[]]".split(),
    b'""', b'"x"', b'"\\ud800"', b'"\\u0000"',
    b"9" * 19, b"-" + b"9" * 19, b"9" * 5000, b"[" * 5000,
    b'{"a":' * 5000, b'"' + b"x" * 9000 + b'"',
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\r", b"\n\n", b"\xed\xa0\x80", b" ",
    b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7,
]  # fmt: skip

TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|\w+|[\[\]{}(),:=%@]')


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """Draws the content of a file with one to four changes."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        end = min(place + draw(st.integers(0, 40)), len(content))
        tokens = [match.span() for match in TOKEN.finditer(content[:20_000])]
        change = draw(st.sampled_from(["token", "token", "flip", "put", "cut", "repeat", "end"]))
        if change == "token" and tokens:
            place, end = draw(st.sampled_from(tokens))
        if change in ("token", "put"):
            odd = draw(st.sampled_from(ODD) | st.binary(max_size=8))
            content = content[:place] + odd + content[end:]
        elif change == "flip" and place < len(content):
            flipped = content[place] ^ (1 << draw(st.integers(0, 7)))
            content = content[:place] + bytes([flipped]) + content[place + 1 :]
        elif change == "cut":
            content = content[:place] + content[end:]
        elif change == "repeat":
            content = content[:end] + content[place:]
        elif change == "end":
            content = content[:place]
    return content


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
      write: Writes sound files into an empty folder.
      reads: What reads them there: a command, or a function and its arguments.
      damaged: Patterns of the files that are mutated, one at a time.
    """

    write: Callable[[Path], object]
    reads: Sequence[str | Callable[[], object]]
    damaged: Sequence[str] = ("**/*",)


PROMPT = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
PROVENANCE = {"task": {"name": "toy"}, "seed": 0, "initializer": ["init_x.y = 1"], "config": "a\n"}
ROWS = [{"text": "this is a test", "label": 1}, {"text": 'that, "was" sad', "label": 0}]


def write_prompts(folder: Path) -> None:
    prompt_files.save(folder / "p.npy", PROMPT, PROVENANCE)
    prompt_files.save(folder / "run" / "prompt_4.npy", PROMPT, PROVENANCE)
    metadata = {"provenance": json.dumps(PROVENANCE)}
    safetensors.numpy.save_file({"prompt": PROMPT}, folder / "p.safetensors", metadata)
    module = {"plugin": None, "distribution": None, "version": None, "fields": {"sites": ["mlp"]}}
    values = {"encoder/prompt/scale": PROMPT[0], "encoder/prompt/prompt": PROMPT}
    module_files.save(folder / "module", values, None, module, PROVENANCE)


def write_arrays(folder: Path) -> None:
    np.savez(folder / "p.npz", prompt=PROMPT)
    np.save(folder / "t.npy", PROMPT)
    safetensors.numpy.save_file({"table": PROMPT}, folder / "t.safetensors")


def read_rows(table: embeddings.EmbeddingTable) -> object:
    return table.rows(np.array([2, 0]))


def write_peft(folder: Path) -> None:
    golden = PLUGINS / "format_huggingface" / "tests" / "golden"
    shutil.copytree(golden / "adapter", folder / "adapter")
    shutil.copytree(golden / "peft" / "p_tuning", folder / "p_tuning")


def write_hugging_face(folder: Path) -> None:
    shutil.copytree(PLUGINS / "format_huggingface" / "tests" / "golden" / "model", folder / "model")
    whole = folder / "model" / "model.safetensors"
    shutil.copytree(folder / "model", folder / "shards")
    shutil.move(folder / "shards" / "model.safetensors", folder / "shards" / "a.safetensors")
    index = {"weight_map": dict.fromkeys(safetensors.numpy.load_file(whole), "a.safetensors")}
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))


def unpacked(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            file = PLUGINS / "format_t5x" / "tests" / "golden" / f"{name}.tar.gz"
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")

    return write


def write_vocabularies(folder: Path) -> None:
    shutil.copy(golden_data.VOCABULARY, folder / "v.model")
    golden = golden_data.SHARED / "transformers_tokenizer.json.xz"
    tokenizers = json.loads(lzma.decompress(golden.read_bytes()))
    (folder / "v").mkdir()
    (folder / "v" / "tokenizer.json").write_text(json.dumps(tokenizers))
    prompt_files.save(folder / "p.npy", PROMPT, {})
    table = np.ones((4096, 8), np.float32)
    safetensors.numpy.save_file({"token_embedder/embedding": table}, folder / "m.safetensors")


def write_data(folder: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "c.tsv").write_text("text\tlabel\nthis is\t1\nthat was\t0\n")
    (folder / "d.csv").write_text('text,label\n"this, is",1\n"that ""was""",0\n')
    (folder / "e.txt").write_text("this is\nthat was\n")


def task_of(name: str) -> tasks.TextTask:
    return tasks.TextTask("t", {"train": name}, "{text}", "{label}", {"0": "no", "1": "yes"})


def example_reader(name: str) -> Callable[[], object]:
    return lambda: task_of(name).examples("train")


def input_reader(name: str) -> Callable[[], object]:
    return lambda: tasks.read_inputs(name, task_of(name))


GIN = """
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks
from prompt_tuning_core import plugins

include 'prompts/from_random_uniform.gin'
TEXT = 'this'
LENGTHS = {'inputs': 12, 'targets': 6}
PROMPT = @plugins.prompt_basic
toy/tasks.TextTask:
  splits = {'train': 'rows.jsonl', 'test': ('a.tsv', "b.tsv")}
  inputs = '{text}'
  targets = %TEXT
  metrics = [@a/plugins.init_string, %LENGTHS]
mix/tasks.Mixture.rates = {'toy': 1.5, 'other': -3e-5}
a/plugins.init_string.text = %TEXT
HOOKS = []
"""


def write_gin(folder: Path) -> None:
    (folder / "a.gin").write_text(GIN)


def read_gin() -> None:
    with gin.unlock_config():
        gin_config.parse(RunFlags(("a.gin",)), "local")


def write_distributions(folder: Path) -> None:
    site = Site(folder)
    for stranger in STRANGERS.values():
        stranger.put(site)


def state_at(step: int) -> TrainingState:
    values = np.random.default_rng(step).standard_normal((3, 8)).astype(np.float32)
    return TrainingState(step, {"prompt": values}, (np.int32(step), values[0]), {"data": "{}"})


def write_states(folder: Path) -> None:
    store = StateStore(folder)
    for step in (4, 8):
        store.save(state_at(step))
    store.close()


def read_state() -> None:
    store = StateStore(Path())
    try:
        found = store.newest(like=state_at(0))
    finally:
        store.close()
    assert found is not None
    expected = state_at(found.step)
    assert found.notes == expected.notes
    np.testing.assert_array_equal(found.prompt["prompt"], expected.prompt["prompt"])
    np.testing.assert_array_equal(found.optimizer[1], expected.optimizer[1])


def write_run(folder: Path) -> None:
    run_files.write_run(folder, {**PROVENANCE, "lengths": {"inputs": 3, "targets": [1.5, None]}})
    rows = [{"step": step, "train/loss": 1.5, "eval/accuracy": None} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_reported_run(folder: Path) -> None:
    versions = {"numpy": "2.0"}
    parts = {"model": {}, "vocabulary": {}, "prompt_module": {"plugin": "x"}, "versions": versions}
    run_files.write_run(folder, {**PROVENANCE, **parts, "plugins": []})
    (folder / "config.gin").write_text("A = 1\nx/options.TrainingOptions.best_metric = 'f1'\n")
    rows = [
        {"step": step, "seconds": 1.5, "train/loss": 1.5, "eval/f1": 0.5 / step}
        for step in (1, 2, 3)
    ]
    lines = [*rows, {"step": 3, "seconds": 2.0, "ended": True}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for step in (1, 3):
        prompt_files.save(folder / f"prompt_{step}.npy", step * PROMPT, PROVENANCE)
    answers = [
        {"inputs": "a", "targets": target, "prediction": "no", "score": -1.5}
        for target in ("yes", "no", "no", "yes")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in answers)
    (folder / "toy-test-predictions.jsonl").write_text(lines)
    facts = {"task": "toy", "split": "test", "examples": 4, "f1": 0.5}
    (folder / "toy-test-metrics.json").write_text(json.dumps(facts))
    held_out = {"split": "test", "examples": 4, "metric": "f1", "rows": {"bare": 0.5}}
    (folder / "held_out.json").write_text(json.dumps(held_out))


def read_report() -> None:
    with contextlib.closing(TrainingReport(Path(), rich.console.Console(), resumed_at=1)):
        pass


PROMPTS = ("p.npy", "p.safetensors", "module.safetensors")
DATA = ("a.jsonl", "b.jsonl.gz", "c.tsv", "d.csv", "e.txt")
READERS = {
    "prompts": Reader(
        write_prompts,
        [
            *(f"prompt show {file}" for file in (*PROMPTS, "run")),
            "prompt convert p.npy new.safetensors",
            "prompt convert p.safetensors new.npy",
        ],
    ),
    "peft": Reader(write_peft, ["prompt show adapter", "prompt show p_tuning"]),
    "hugging_face": Reader(write_hugging_face, ["model show model", "model show shards"]),
    "t5x": Reader(
        unpacked("t5x_checkpoint_prompt", "t5x_checkpoint_msgpack_only"),
        [
            "model show t5x_checkpoint_prompt/checkpoint_0",
            "model show t5x_checkpoint_msgpack_only/checkpoint_0",
            "extract-variable t5x_checkpoint_prompt/checkpoint_0 token_embedder/embedding x.npy",
        ],
        ["**/checkpoint", "**/.zarray", "**/target.token_embedder.embedding/*"],
    ),
    "orbax": Reader(
        unpacked("t5x_orbax"),
        [
            "model show t5x_orbax/checkpoint_7/state",
            "extract-variable t5x_orbax/checkpoint_7/state token_embedder/embedding x.npy",
        ],
    ),
    "vocabularies": Reader(
        write_vocabularies,
        [
            f"prompt show p.npy --model=m.safetensors --vocabulary={name}"
            for name in ("v.model", "v/tokenizer.json")
        ],
        ["v.model", "v/*"],
    ),
    "data": Reader(write_data, [*map(input_reader, DATA), *map(example_reader, DATA[:-1])]),
    "gin": Reader(write_gin, [read_gin]),
    "distributions": Reader(
        write_distributions, ["list-plugins", "list-plugins --json"], ["site/**/*.dist-info/*"]
    ),
    "arrays": Reader(
        write_arrays,
        [
            lambda: init_file("p.npz")(None, PROMPT.shape),
            lambda: read_rows(embeddings.np_load("t.npy")),
            lambda: read_rows(embeddings.safetensors_load("t.safetensors", "table")),
        ],
    ),
    "run": Reader(write_run, [lambda: run_files.read_run(Path()), read_report]),
    "reports": Reader(write_reported_run, ["runs .", "runs . --runs --json", "report ."]),
    "states": Reader(write_states, [read_state]),
}


def refusal(read: str | Callable[[], object]) -> str:
    """Returns why a file is not read, "" if it is; fails if one line does not explain it."""
    before = set(Path().iterdir())
    output, error = io.StringIO(), io.StringIO()
    code, message = 0, ""
    began, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        if isinstance(read, str):
            code = main(shlex.split(read))
            message = error.getvalue().removesuffix("\n") if code else ""
        else:
            try:
                read()
            except PromptTuningError as why:
                code, message = 2, printable(f"prompt-tuning: error: {why}")
    assert time.monotonic() - began < SLOWEST
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY
    assert code == (2 if message else 0), error.getvalue()
    assert not message or message.startswith("prompt-tuning: error: ")
    assert message.isprintable(), ascii(message)
    assert len(message) <= LONGEST, message
    assert output.getvalue().replace("\n", "").isprintable(), ascii(output.getvalue())
    assert not code or set(Path().iterdir()) == before
    return message


@pytest.mark.filterwarnings("ignore")  # What a reader warns of is no fault of it.
@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused(name, in_process, tmp_path_factory, monkeypatch):
    reader = READERS[name]
    sound = tmp_path_factory.mktemp("sound")
    reader.write(sound)
    patterns = {path for pattern in reader.damaged for path in sound.glob(pattern)}
    files = sorted(path.relative_to(sound) for path in patterns if path.is_file())
    folder = tmp_path_factory.mktemp("mutated") / "folder"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder / "site")
    for read in reader.reads:  # Sound files are read.
        monkeypatch.chdir(sound)
        assert not refusal(read)

    @settings(
        max_examples=100,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one_round(data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(files))
        content = data.draw(mutated((sound / file).read_bytes()))
        monkeypatch.chdir(folder.parent)
        shutil.rmtree(folder)
        shutil.copytree(sound, folder, symlinks=True)
        (folder / file).write_bytes(content)
        monkeypatch.chdir(folder)
        for read in reader.reads:
            refusal(read)

    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        seed(random.randrange(2**32))(one_round)()
        rounds += 1
    print(f"{name}: {100 * rounds} mutated files")  # noqa: T201
