"""A format plugin that fails stops no command that needs another one."""

from __future__ import annotations

import numpy as np
import pytest

from prompt_tuning_core import registry
from prompt_tuning_core.errors import PluginError
from prompt_tuning_files import formats, prompt_files

BROKEN = {
    "raises": ("def recognizes_prompt(self, path): return {}['gone']", "KeyError: 'gone'"),
    "wants": (
        "def __init__(self, more): pass\n"
        "    def recognizes_prompt(self, path): return True",
        "TypeError: .*missing 1 required positional argument: 'more'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_format_matters_where_no_other_reads_the_file(in_process, tmp_path, name):
    method, expected = BROKEN[name]
    source = f"class Format:\n    {method}\n    def read_prompt(self, path, shape=None): pass\n"
    points = {"formats": {f"format_{name}": f"module_{name}:Format"}}
    in_process.distribution(f"stranger-{name}", points, {f"module_{name}.py": source})
    registry.configure()
    path = tmp_path / "prompt.npy"
    prompt_files.save(path, np.ones((2, 3)), {})
    np.testing.assert_array_equal(formats.read_prompt(path).array, np.ones((2, 3)))
    (tmp_path / "other").write_bytes(b"no prompt")
    line = f"format plugin 'format_{name}' of stranger-{name} 1.0 fails, .*: {expected}"
    with pytest.raises(PluginError, match=line):
        formats.read_prompt(tmp_path / "other")
