"""Text tasks: rows of files, templates, metrics, mixtures.

In gin, `import prompt_tuning_tasks as tasks` and describe a task as `NAME/tasks.TextTask`.
"""

from __future__ import annotations

from prompt_tuning_tasks.text_tasks import (
    Example,
    Mixture,
    Row,
    Source,
    Sources,
    Task,
    TextTask,
    get,
    has_rows,
    import_module,
    names,
    read_inputs,
    read_lines,
    read_rows,
    register,
    stem,
    with_a_template,
)

__all__ = [
    "Example",
    "Mixture",
    "Row",
    "Source",
    "Sources",
    "Task",
    "TextTask",
    "get",
    "has_rows",
    "import_module",
    "names",
    "read_inputs",
    "read_lines",
    "read_rows",
    "register",
    "stem",
    "with_a_template",
]
