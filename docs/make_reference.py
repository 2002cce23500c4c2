#!/usr/bin/env python
"""Writes docs/reference from the docstrings: `python docs/make_reference.py`."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from prompt_tuning_core import gin_config, kinds, registry

MODULES = {
    "core": [
        f"prompt_tuning_core.{name}"
        for name in (
            "protocols", "prompts", "parameters", "combine", "kinds", "registry",
            "gin_config", "hookspecs", "errors", "commands.main", "commands.engines",
        )
    ],
    "files": [
        f"prompt_tuning_files.{name}"
        for name in (
            "prompt_files", "run_files", "module_files", "trained_prompts", "remote_prompts",
            "formats", "embeddings", "names",
            "initial_values", "text_rows", "provenance", "git_lfs", "vocabularies", "model_sizes",
        )
    ],
    "tasks": [
        f"prompt_tuning_tasks.{name}"
        for name in ("text_tasks", "feature_lengths", "metrics", "seqio_registration")
    ],
    "testing": [
        f"prompt_tuning_testing.{name}"
        for name in (
            "contracts", "initializers", "prompt_modules", "engine_checks", "hooks_checks",
            "configs_checks", "tasks_checks", "format_checks", "format_samples", "catalog_checks",
            "command_checks",
            "parametrizing", "checks", "sample_values", "check_command", "new_plugin_command",
            "pytest_plugin", "tiny_t5", "recorded_events", "strangers", "wheels",
        )
    ],
    "catalogs-and-commands": [
        "prompt_tuning_catalog_google",
        "prompt_tuning_configs.gin_path",
        *(
            f"prompt_tuning_commands_inspect.{name}"
            for name in (
                "model_list", "model_show", "prompt_list", "prompt_show", "prompt_convert",
                "extract_variable", "nearest_pieces", "flat_facts",
            )
        ),
        *(
            f"prompt_tuning_commands_runs.{name}"
            for name in (
                "runs_command", "report_command", "run_records", "run_groups", "best_values",
            )
        ),
    ],
    "plugins": [
        f"prompt_tuning_{name}"
        for name in (
            "init_random", "init_vocab", "init_labels", "init_string", "init_file", "prompt_basic",
            "prompt_deep", "prompt_prefix", "prompt_reparam", "prompt_multitask", "prompt_ia3",
            "prompt_wayward",
        )
    ],
    "engine-local": [
        f"prompt_tuning_engine_local.{name}"
        for name in (
            "runs.options", "runs.preparing", "runs.training", "runs.inference", "runs.evaluation",
            "runs.evaluation_files",
            "data.engine_task", "data.find_task", "data.text_components", "data.batching",
            "data.batch_plan", "model.prompted_model", "model.network",
            "model.encoder", "model.decoder", "model.prompt_points", "model.network_config",
            "model.attention", "model.blocks", "model.sizes",
            "model.losses", "model.optimizers", "model.schedules", "model.microbatches",
            "model.decoding", "model.model_files",
        )
    ],
    "engine-t5x": [
        "prompt_tuning_engine_t5x",
        *(
            f"prompt_tuning_engine_t5x.{name}"
            for name in ("find_module", "task_registration", "partitioning", "requirements")
        ),
    ],
}  # fmt: skip

# These import T5X or Flaxformer, which are not installed here: one line a member, from the source.
NEED_T5X = {
    "core": [
        f"prompt_tuning_core.integrations.flaxformer.{name}"
        for name in ("stacks", "models", "layer_points")
    ],
    "engine-t5x": [
        f"prompt_tuning_engine_t5x.{name}"
        for name in (
            "checkpoints",
            "prompt_optimizer",
            "prompt_model",
            "decoder_only_model",
            "prompt_parameters",
            "hooks",
            "preflight",
        )
    ],
}


def pages() -> dict[str, str]:
    """Returns the text of each page by file name."""
    texts = {
        f"{name}.md": f"# Python reference: {name}\n\n"
        + "\n".join(
            [
                *([_kinds(), _commands()] if name == "core" else []),
                *map(_module, modules),
                *map(_named_only, NEED_T5X.get(name, [])),
            ]
        )
        for name, modules in MODULES.items()
    }
    links = "".join(f"- [{name}]({name}.md)\n" for name in MODULES)
    note = "Generated from the docstrings by `docs/make_reference.py`.\n"
    return {"index.md": f"# Python reference\n\n{links}\n{note}", **texts}


def _kinds() -> str:
    rows = "".join(
        f"| {kind.name} | `{kind.group}` | {kind.usage.format(name='NAME', words='NAME')} |\n"
        for kind in kinds.KINDS.values()
    )
    return f"## Kinds of plugins\n\n| kind | entry-point group | usage |\n|---|---|---|\n{rows}"


def _commands() -> str:
    installed = registry.Registry()
    lines = ""
    for row in installed.discover():
        if row.is_core:
            summary = (installed.load(row.kind, row.name).__doc__ or "").splitlines()[0]
            lines += f"- `{row.usage}`: {summary.rstrip('.')}\n"
    return f"## Commands of the core\n\n{lines}"


def _module(name: str) -> str:
    module = importlib.import_module(name)
    members = "".join(_member(*member) for member in _public(module))
    return f"## {name}\n\n{_text(module)}\n{members}"


def _named_only(name: str) -> str:
    package, _, module = name.rpartition(".")
    file = gin_config.find_module(package) / f"{module}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    members = "".join(f"- {line}\n" for line in _named(tree.body))
    return f"## {name}\n\n{ast.get_docstring(tree)}\n\n{members}"


def _named(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yields a line for each public class, function, property and constant with a docstring.

    For example, `` `PromptEncoder.__call__`: Encodes. `` for a method.
    """
    for name, text in _constants(body).items():
        yield f"`{prefix}{name}`: {text.splitlines()[0]}"
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        text = ast.get_docstring(node)
        if text and (not node.name.startswith("_") or node.name == "__call__"):
            yield f"`{prefix}{node.name}`: {text.splitlines()[0]}"
            if isinstance(node, ast.ClassDef):
                yield from _named(node.body, f"{node.name}.")


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    names = getattr(module, "__all__", None)
    constants = _constants(ast.parse(inspect.getsource(module)).body)
    for name, value in vars(module).items():
        if names is None:
            own = getattr(value, "__module__", 0) == module.__name__ or name in constants
            listed = own and not name.startswith("_")
        else:
            listed = name in names
        if listed and name in constants:
            yield name, _Constant(constants[name])
        elif listed and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


class _Constant(NamedTuple):
    text: str


def _constants(body: Iterable[ast.stmt]) -> dict[str, str]:
    """Maps documented constants and aliases to their texts, which Python does not keep."""
    found = {}
    for node, following in itertools.pairwise([*body, ast.Pass()]):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        text = getattr(following, "value", None) if isinstance(following, ast.Expr) else None
        for target in targets:
            named = isinstance(target, ast.Name) and not target.id.startswith("_")
            if named and isinstance(text, ast.Constant):
                found[target.id] = inspect.cleandoc(str(text.value))
    return found


def _member(name: str, value: object) -> str:
    if isinstance(value, _Constant):
        return f"### `{name}`\n\n{value.text}\n\n"
    if not inspect.isclass(value):
        return f"### `{name}{_signature(value)}`\n\n{_text(value)}\n"
    methods = ""
    for method, function in vars(value).items():
        private = method.startswith("_") and method != "__call__"
        if private or not function.__doc__:
            continue
        if isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        if isinstance(function, (property, functools.cached_property)):
            methods += f"#### property `{method}`\n\n{_text(function)}\n"
        elif inspect.isfunction(function):
            methods += f"#### `{method}{_signature(function)}`\n\n{_text(function)}\n"
    return f"### class `{name}`\n\n{_text(value)}\n{methods}"


def _signature(function: Callable[..., object]) -> str:
    # Defaults and annotations as they are written, without addresses of objects.
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(function)))


def _text(documented: object) -> str:
    text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
    # Indented sections of a Google docstring are lists for a reader of Markdown.
    text = re.sub(r"^ {2,}(\S)", r"  \1", text, flags=re.MULTILINE)
    return re.sub(r"^  (\*{0,2}\w+): ", r"- `\1`: ", text, flags=re.MULTILINE) + "\n"


if __name__ == "__main__":
    folder = Path(__file__).parent / "reference"
    for file_name, content in pages().items():
        (folder / file_name).write_text(content, encoding="utf-8")
