"""Multitask prompts: a shared prompt, which each task's own numbers turn into its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_core.errors import InputError
from prompt_tuning_core.prompts import InputPrompt, described
from prompt_tuning_core.protocols import Initializer

HOWS = ("scale", "add", "concatenate", "concatenate_features", "project")


class PromptMultitask(InputPrompt):
    """Places a task's prompt in each example's input; the first token names the task.

    The first token is a sentinel: `sentinel` for task 0, `sentinel` - 1 for task 1 …. The module
    removes this token from the input. An example without a sentinel gets a prompt of NaN, so that
    its answer is clearly invalid. `prompt_init` makes the parameter `shared`. The parameter `tasks`
    (in 'scale': `rows` and `columns`) holds each task's own numbers.

    Attributes:
      how: The way to make a task's prompt from the shared prompt, which is `[P, H]` if not stated:
        'scale', times a matrix of rank 1 (Wang et al. 2023, equation 2);
        'add', plus the task's `[P, H]`;
        'concatenate', followed by the task's `[task_length, H]`;
        'concatenate_features', `[P, H - task_features]` beside the task's `[P, task_features]`;
        'project', `[P, task_features]` times the task's matrix, plus its vector.
      tasks: Number of tasks.
      sentinel: Id of the token that names task 0, such as <extra_id_0>.
      task_length: Positions of the task's own prompt, in 'concatenate'; 0 for P.
      task_features: See `how`.
      task_inits: Initializers of the tasks' own numbers, for example from prompts in files: one for
        all tasks, or one for each task. Without any, the numbers are ones in 'scale' and else
        zeros.
      frozen: Names of the parameters that are not trained, such as ('shared',).
    """

    how: str = "scale"
    tasks: int = 0
    sentinel: int = 0
    task_length: int = 0
    task_features: int = 0
    task_inits: Sequence[Initializer] = ()
    frozen: Sequence[str] = ()

    def setup(self) -> None:
        """Makes the parameters."""
        self._check()
        width, init = self.stack.width, self._each_task
        shared = width
        if self.how == "concatenate_features":
            shared -= self.task_features
        elif self.how == "project":
            shared = self.task_features
        self.shared = self.parameter("shared", self.prompt_init, (self.length, shared))
        if self.how == "scale":
            ones = nn.initializers.ones
            self.row_factors = self.parameter("rows", ones, (self.tasks, self.length))
            self.column_factors = self.parameter("columns", ones, (self.tasks, width))
            return
        shape = {
            "add": (self.length, width),
            "concatenate": (self.task_length or self.length, width),
            "concatenate_features": (self.length, self.task_features),
            "project": (self.task_features + 1, width),
        }[self.how]
        self.own = self.parameter("tasks", init, (self.tasks, *shape))

    def positions(self) -> int:
        """Returns the number of vectors that `rows` returns."""
        own = (self.task_length or self.length) if self.how == "concatenate" else 0
        return self.length + own

    def rows(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Returns the prompt of each example's task, which the first of `tokens` names."""
        del embedded
        task = self.sentinel - tokens[:, 0]
        # A negative index becomes one past the end, where `take` fills with NaN.
        task = jnp.where(task < 0, self.tasks, task)

        def of_task(numbers: jax.Array) -> jax.Array:
            return jnp.take(numbers, task, axis=0, mode="fill", fill_value=jnp.nan)

        batch = len(tokens)
        shared = jnp.broadcast_to(self.shared, (batch, *self.shared.shape))
        if self.how == "scale":
            rows, columns = of_task(self.row_factors), of_task(self.column_factors)
            return shared * rows[:, :, None] * columns[:, None, :]
        own = of_task(self.own)
        if self.how == "add":
            return shared + own
        if self.how == "project":
            return shared @ own[:, :-1] + own[:, -1:]
        return jnp.concatenate([shared, own], axis=1 if self.how == "concatenate" else 2)

    def input(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
        """Removes the task's token, and places the task's prompt; see `PromptModule.input`."""
        return self.place(self.rows(tokens, embedded), tokens[:, 1:], embedded[:, 1:])

    def input_mask(self, tokens: jax.Array) -> jax.Array:
        """Returns the mask without the task's token; see `PromptModule.input_mask`."""
        return super().input_mask(tokens[:, 1:])

    def is_trained(self, path: str) -> bool:
        """Checks that a parameter is trained: `frozen` does not name it."""
        return path not in self.frozen

    def _each_task(self, rng: jax.Array, shape: Sequence[int], /) -> jax.Array:
        """Makes the numbers of all tasks, `[tasks, …]`."""
        if not self.task_inits:
            return jnp.zeros(shape)
        inits = list(self.task_inits) * (self.tasks if len(self.task_inits) == 1 else 1)
        keys = jax.random.split(rng, self.tasks)
        return jnp.stack(
            [init(key, tuple(shape[1:])) for init, key in zip(inits, keys, strict=True)]
        )

    def _check(self) -> None:
        """Refuses fields that do not fit together; the message names the field at fault."""
        width, features = self.stack.width, self.task_features
        needs_features = self.how in ("concatenate_features", "project")
        names = ("shared", "rows", "columns") if self.how == "scale" else ("shared", "tasks")
        for field, is_right, expected in (
            ("how", self.how in HOWS, f"one of {', '.join(map(repr, HOWS))}"),
            ("tasks", self.tasks > 0, "the number of tasks"),
            ("sentinel", self.sentinel > 0, "the id of the token that names task 0"),
            ("task_features", not needs_features or 0 < features < width, f"1 to {width - 1}"),
            (
                "task_inits",
                len(self.task_inits) in (0, 1, self.tasks)
                and not (self.how == "scale" and self.task_inits),
                f"none, 1 or {self.tasks} initializers, and none in 'scale'",
            ),
            ("frozen", set(self.frozen) <= set(names), f"names among {', '.join(names)}"),
        ):
            if not is_right:
                raise InputError(
                    f"{described(self)}: {field} is {getattr(self, field)!r}, expected {expected}"
                )
