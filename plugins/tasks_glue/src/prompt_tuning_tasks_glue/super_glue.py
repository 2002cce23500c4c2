"""Registers the tasks of SuperGLUE for the vocabularies of T5, mT5 and ByT5, when it is imported.

`MIXTURE_OR_TASK_MODULE = 'super_glue'` names it.
"""

from __future__ import annotations

from prompt_tuning_tasks_glue import registration

for _prefix, _vocabulary in registration.released_vocabularies().items():
    registration.register_super_glue(_vocabulary, _prefix)
