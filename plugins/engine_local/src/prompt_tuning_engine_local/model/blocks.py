"""The blocks of a T5 layer apart from attention: normalisation, matrices, feed-forward."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_engine_local.model.dropout import Dropout
from prompt_tuning_engine_local.model.network_config import T5Config
from prompt_tuning_engine_local.model.prompt_points import LayerPoints


class RMSNorm(nn.Module):
    """Root mean square normalisation without bias (Zhang and Sennrich 2019), epsilon 1e-6."""

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis in float32; returns `dtype`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x.astype(self.dtype) * scale


class Dense(nn.Module):
    """A matrix without bias: the parameter `kernel` `[in, features]`."""

    features: int
    dtype: str
    stddev_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x @ kernel` in `dtype`."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", _initial_kernel, shape, self.dtype, self.stddev_scale)
        return _dense(x, kernel)


# Jitted, since Flax traces it at each call of a layer, to check the shape of the kernel.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _initial_kernel(
    rng: jax.Array, shape: tuple[int, int], dtype: str, stddev_scale: float
) -> jax.Array:
    draw = nn.initializers.variance_scaling(stddev_scale**2, "fan_in", "truncated_normal")
    return draw(rng, shape, dtype)


# Functions of arrays alone are jitted: JAX traces them once for all layers, and XLA inlines them.
@jax.jit
def _dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows = x.astype(kernel.dtype).reshape(-1, x.shape[-1])
    return product(rows, kernel).astype(kernel.dtype).reshape(*x.shape[:-1], kernel.shape[-1])


# Computed again for the gradient: that is faster than keeping the inner values.
@jax.jit
@jax.checkpoint
def _gated(gate: jax.Array, x: jax.Array) -> jax.Array:
    return nn.gelu(gate) * x


@jax.custom_vjp
def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies matrices of one dtype; the result is float32.

    On CPUs, XLA multiplies bfloat16 about three times as fast if the result is float32. But for the
    gradient JAX would then multiply a bfloat16 by a float32 matrix, which XLA has no product for.
    So the gradient's products are written here too.

    Args:
      left: `[..., m, k]`.
      right: `[..., k, n]`, with the same leading axes.

    Returns:
      float32 `[..., m, n]`.
    """
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _product_forward(
    left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(left, right), (left, right)


def _product_backward(
    operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = operands
    gradient = gradient.astype(left.dtype)
    return (
        product(gradient, right.mT).astype(left.dtype),
        product(left.mT, gradient).astype(right.dtype),
    )


product.defvjp(_product_forward, _product_backward)


class MLP(nn.Module):
    """The feed-forward block: `(gelu(x wi_0) * (x wi_1)) wo` in T5 1.1, `relu(x wi) wo` in 1.0."""

    config: T5Config

    def setup(self) -> None:
        """Makes the submodules."""
        config = self.config
        if config.activation == "relu":
            self.wi = Dense(config.mlp_dim, config.dtype)
        else:
            self.wi_0 = Dense(config.mlp_dim, config.dtype)
            self.wi_1 = Dense(config.mlp_dim, config.dtype)
        self.wo = Dense(config.emb_dim, config.dtype)

    def __call__(
        self, x: jax.Array, dropout: Dropout, points: LayerPoints | None = None
    ) -> jax.Array:
        """Maps `[B, S, H]` to the same shape; `points` may change the activations within."""
        if self.config.activation == "relu":
            x = nn.relu(self.wi(x))
        else:
            x = _gated(self.wi_0(x), self.wi_1(x))
        if points is not None:
            x = points.activations("mlp", x)
        return self.wo(dropout(x))
