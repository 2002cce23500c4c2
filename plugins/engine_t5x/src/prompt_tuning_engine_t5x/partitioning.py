"""Axis rules of T5X for a prompt: every device holds the whole prompt."""

from __future__ import annotations


def prompt_axis_rules() -> tuple[tuple[str, None], ...]:
    """Returns T5X's logical axis rules for the axes of a prompt.

    They are never partitioned: each device, and so each host, holds the whole prompt. Bind them to
    `t5x.partitioning.standard_logical_axis_rules.additional_rules`.
    """
    return (("prompt", None), ("prompt_embed", None))
