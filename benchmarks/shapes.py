"""The sizes of T5 1.1, and the flags for a measurement, for our side and for peers.

This module needs only the standard library, since peers run in their own environments.
"""

from __future__ import annotations

import argparse
import dataclasses

HEAD_DIM, NUM_EMBEDDINGS = 64, 32128
"""The same in every size up to large."""

FIRST_ID, LAST_ID = 3, 32000
"""The range of random ids: without padding, EOS and the extra ids."""


@dataclasses.dataclass(frozen=True)
class Size:
    """One size of T5 1.1; encoder and decoder have the same number of layers."""

    emb_dim: int
    num_heads: int
    mlp_dim: int
    num_layers: int


SIZES = {
    "tiny": Size(16, 1, 32, 1),  # No size of T5: for a test run.
    "small": Size(512, 6, 1024, 8),
    "base": Size(768, 12, 2048, 12),
    "large": Size(1024, 16, 2816, 24),
}


def add_shape_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the model: its size, its prompt, its numerics, its weights."""
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--prompt-length", type=int, default=100)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    # The parent process makes the weights once and gives them to each process it starts.
    parser.add_argument("--weights", help=argparse.SUPPRESS)


def add_batch_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of random batches."""
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input-length", type=int, default=128)
    parser.add_argument("--target-length", type=int, default=8)


def flags(arguments: argparse.Namespace, *leave_out: str) -> list[str]:
    """Returns the flags that give another process the same arguments.

    Args:
      arguments: The arguments of this process.
      *leave_out: Names of arguments that the other process does not take.
    """
    found = []
    for name, value in vars(arguments).items():
        if name not in leave_out and value is not None and not isinstance(value, bool):
            found.append(f"--{name.replace('_', '-')}={value}")
    return found
