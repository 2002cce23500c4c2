"""GLUE and SuperGLUE as tasks of seqio.

Importing `prompt_tuning_tasks_glue.glue` or `prompt_tuning_tasks_glue.super_glue` registers them;
`prompt_tuning_tasks_glue.registration` has functions that do so for a vocabulary of one's own.
"""
