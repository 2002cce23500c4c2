"""GLUE and SuperGLUE as tasks of seqio.

`MIXTURE_OR_TASK_MODULE = 'glue'` or `'super_glue'` registers them;
`prompt_tuning_tasks_glue.registration` has functions that do so for your own vocabulary.
"""
