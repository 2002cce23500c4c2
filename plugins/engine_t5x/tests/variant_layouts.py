"""Trains every prompt variant on layouts of 8 devices, which XLA_FLAGS must simulate.

Prints a JSON object: for each variant and layout, how far the trained prompt is from that of one
device, and how far a change of the last bit of its initial values takes it.
"""

from __future__ import annotations

import json
import sys

import jax
import variant_models as engines
from t5x import partitioning

import variants
from prompt_tuning_engine_t5x.partitioning import prompt_axis_rules

STEPS = 2
LAYOUTS = {"8x1": 1, "2x4": 4}
"""The number of devices that hold parts of one model, by layout."""


def steps_on(variant, prompt, batch, model_parallel):
    """Returns the prompt after steps of T5X's partitioned trainer."""
    model = engines.t5x_model(variant, engines.optimizer(variant))
    state = engines.t5x_state(model, prompt)
    rules = partitioning.standard_logical_axis_rules(additional_rules=prompt_axis_rules())
    partitioner = partitioning.PjitPartitioner(
        model_parallel_submesh=(1, model_parallel), logical_axis_rules=rules
    )
    axes = partitioner.get_mesh_axes(state)

    def step(state, batch):
        return engines.step(model, state, batch)[0]

    partitioned = partitioner.partition(
        step,
        in_axis_resources=(axes, partitioner.data_partition_spec),
        out_axis_resources=axes,
    )
    for _ in range(STEPS):
        state = partitioned(state, batch)
    return engines.prompt_in(jax.device_get(state))


def farthest(found, expected):
    return float(max(engines.distances(found, expected).values()))


def main():
    assert jax.device_count() == 8
    found = {}
    batch = variants.batch_of([*variants.ROWS, variants.ROWS[0]] * 2)
    for variant in sys.argv[1:]:
        prompt = engines.drawn(variant)
        expected, near = (
            engines.prompt_in(engines.t5x_steps(variant, values, STEPS, batch=batch)[0])
            for values in (prompt, engines.nearly(prompt))
        )
        found[variant] = {"rounding": farthest(near, expected)}
        for layout, parts in LAYOUTS.items():
            found[variant][layout] = farthest(steps_on(variant, prompt, batch, parts), expected)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    with jax.default_matmul_precision("highest"):
        main()
