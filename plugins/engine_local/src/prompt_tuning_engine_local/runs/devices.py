"""Places arrays on devices: parameters on every device, each batch split among them."""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning_core.errors import InputError

T = TypeVar("T")


def compiler_options() -> dict[str, str]:
    """Returns XLA's options for the training step on JAX's default backend."""
    if jax.default_backend() != "cpu":
        return {}
    # By default, XLA recomputes values for the gradient as early as possible and keeps them.
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Placement:
    """Places arrays on local devices of JAX's default backend.

    Args:
      num_devices: Number of devices to use; None for all (NUM_DEVICES).

    Raises:
      InputError: If there are fewer devices.
    """

    def __init__(self, num_devices: int | None = None) -> None:
        local = jax.local_devices()
        count = len(local) if num_devices is None else num_devices
        if not 1 <= count <= len(local):
            raise InputError(
                f"NUM_DEVICES is {num_devices!r}, and there are {len(local)} local devices of kind "
                f"{local[0].platform}"
            )
        mesh = Mesh(np.array(local[:count]), ("batch",))
        self.num_devices = count
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec("batch"))

    def check_batch_size(self, batch_size: int, num_microbatches: int | None = None) -> None:
        """Checks that a batch, or each part that a step computes, can be split evenly.

        Args:
          batch_size: The number of examples (BATCH_SIZE).
          num_microbatches: The number of parts (NUM_MICROBATCHES).

        Raises:
          InputError: If it cannot be split evenly.
        """
        if batch_size % self.num_devices:
            raise InputError(
                f"BATCH_SIZE is {batch_size}, which {self.num_devices} devices cannot share "
                f"evenly; choose a multiple of {self.num_devices}, or set NUM_DEVICES"
            )
        multiple = self.num_devices * (num_microbatches or 1)
        if batch_size % multiple:
            raise InputError(
                f"BATCH_SIZE is {batch_size}, and NUM_MICROBATCHES = {num_microbatches} cannot cut "
                f"it into equal parts for {self.num_devices} devices; choose a multiple of "
                f"{multiple}, or another NUM_MICROBATCHES"
            )

    def everywhere(self, tree: T) -> T:
        """Returns a tree of arrays, copied to each device."""
        return jax.device_put(tree, self._everywhere)

    def split(self, tree: T) -> T:
        """Returns a tree of arrays `[B, …]`, their first axis split among the devices."""
        return jax.device_put(tree, self._split)
