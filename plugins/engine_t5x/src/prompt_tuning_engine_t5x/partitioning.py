"""Axis rules of T5X for a prompt: every device holds the whole prompt."""

from __future__ import annotations

# More axes than any parameter of a prompt has.
_MOST_AXES = 8


def prompt_axis_rules() -> tuple[tuple[str, None], ...]:
    """Returns T5X's logical axis rules for the axes of a prompt module's parameters.

    These axes are never partitioned: each device, and so each host, holds the whole prompt. Bind
    the rules to `t5x.partitioning.standard_logical_axis_rules.additional_rules`.
    """
    names = ("prompt", "prompt_embed", *(f"prompt_{number}" for number in range(_MOST_AXES)))
    return tuple((name, None) for name in names)
