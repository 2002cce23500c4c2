"""A gin file that imports the reference's modules is answered with what to use in their place."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import Main

from prompt_tuning_core import registry
from prompt_tuning_core.replaced_modules import FILE_NAME
from prompt_tuning_testing.pytest_plugin import Site

ROOT = Path(__file__).parents[1]
REPLACED = json.loads((ROOT / "configs" / "prompt_tuning_configs" / FILE_NAME).read_text())


def told(module: str, site: Site, main: Main) -> str:
    site.write("old.gin", f"from __gin__ import dynamic_registration\nimport {module}\n")
    code, _, error = main("train", "--engine=local", "--gin_file=old.gin")
    assert code == 2
    return error


@pytest.mark.parametrize("module", REPLACED)
def test_each_module_of_the_reference_is_answered_with_its_replacement(
    module: str, in_process: Site, main: Main
) -> None:
    expected = f"{module} has been replaced: {REPLACED[module]}"
    error = told(module, in_process, main)
    assert error.startswith("prompt-tuning: error: old.gin:2: ModuleNotFoundError")
    assert error.endswith(f"; {expected}\n")

    plugins = registry.process_registry().names_in_gin()
    assert set(re.findall(r"plugins\.(\w+)", REPLACED[module])) <= set(plugins)
    modules = re.findall(r"\bprompt_tuning_(?!core import)[\w.]+", REPLACED[module])
    for name in modules:
        package, *rest = name.split(".")
        spec = find_spec(package)
        assert spec is not None, name
        assert spec.origin is not None
        file = Path(spec.origin).parent.joinpath(*rest)
        assert file.is_dir() or file.with_suffix(".py").is_file(), name


def test_a_module_below_and_a_gin_file_of_the_reference(in_process: Site, main: Main) -> None:
    error = told("prompt_tuning.spot.tasks", in_process, main)
    assert f"prompt_tuning.spot.tasks has been replaced: {REPLACED['prompt_tuning']}" in error

    file = "prompt_tuning/configs/models/t5_1_1_base_prompt.gin"
    error = main("train", "--engine=local", f"--gin_file={file}")[2]
    assert f"{file!r} not found; did you mean 'models/t5_1_1_base_prompt.gin'?" in error

    assert "replaced" not in told("no_such_module_at_all", in_process, main)
