"""Starts every position of a prompt at the mean of some embeddings, with a little noise."""

import jax
import numpy as np


def around_mean(embeddings, count=1000, noise=0.1):
    """Makes an initializer.

    Args:
      embeddings: The table `[V, H]`, which is read by rows.
      count: The number of first rows to take the mean of.
      noise: The standard deviation of the added noise, which makes positions differ.
    """

    def initialize(rng, shape):
        mean = embeddings.rows(np.arange(count)).mean(0)
        if shape[1] != len(mean):
            raise ValueError(f"the prompt has the width {shape[1]}, and the table {len(mean)}")
        return mean + noise * jax.random.normal(rng, tuple(shape))

    return initialize
