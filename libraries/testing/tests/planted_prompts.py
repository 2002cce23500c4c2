"""Prompt modules that are wrong, each in one way, by the check that must find it."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning_core.prompts import InputPrompt, PromptModule

COUNT = itertools.count()


class Planted(NamedTuple):
    """A module with a fault, the check that must find it, and a part of what it says."""

    check: str
    module: type
    says: str


class Sound(InputPrompt):
    """One matrix; the base of all others."""

    def setup(self):
        self.own = self.parameter("own", self.prompt_init, (self.length, self.stack.width))

    def rows(self, tokens, embedded):
        return self.own[None]


class SoundLayers(PromptModule):
    """Adds a vector to the first positions before each layer, and changes no input."""

    def setup(self):
        self.own = self.parameter("own", self.prompt_init, (self.length, self.stack.width))
        self.factor = self.parameter("factor", nn.initializers.ones, (self.stack.mlp_width,))

    def layer(self, layer, hidden, state):
        return hidden.at[:, : self.length].add(self.own.astype(hidden.dtype)[: hidden.shape[1]])

    def activations(self, layer, site, x, state):
        return x * self.factor.astype(x.dtype) if site == "mlp" else x


class HalfPrecision(Sound):
    def setup(self):
        super().setup()
        self.half = self.param("half", lambda rng: jnp.ones(3, jnp.bfloat16))


class WrongWidth(Sound):
    def rows(self, tokens, embedded):
        return self.own[None, :, :-1]


class IntegerMask(Sound):
    def input_mask(self, tokens):
        return super().input_mask(tokens).astype(jnp.int32)


class ChangesTheDtype(SoundLayers):
    def layer(self, layer, hidden, state):
        return hidden.astype(jnp.float32) + 0


class StateOfOneExample(Sound):
    def start(self, tokens):
        return jnp.zeros(3)


class PenaltyOfARow(Sound):
    def penalty(self):
        return self.own.sum(1)


class NothingToTrain(PromptModule):
    pass


class NoInitializer(Sound):
    def setup(self):
        self.own = self.parameter("own", None, (self.length, self.stack.width))
        self.more = self.parameter("more", lambda rng, shape: None, (2, 2))


class NearlyAPoint(Sound):
    def penaltys(self):
        return 0.0


class NearlyAnother(Sound):
    def activation(self, layer, site, x, state):
        return x


class TwentyPositions(Sound):
    def setup(self):
        self.own = self.parameter("own", self.prompt_init, (20, self.stack.width))

    def positions(self):
        return 20


class TwoPositionsOfPrefix(PromptModule):
    def setup(self):
        shape = (2, self.stack.heads, self.stack.head_width)
        self.own = self.parameter("own", nn.initializers.normal(0.5), shape)

    def prefix(self, layer, attention, state):
        return self.own[None], -self.own[None]


class AllPositionsReal(Sound):
    def input_mask(self, tokens):
        return jnp.ones_like(super().input_mask(tokens))


class CountsPaddingAway(Sound):
    def input_mask(self, tokens):
        return super().input_mask(tokens) & (jnp.arange(tokens.shape[1] + self.length) < 5)


class OtherValuesEachTime(Sound):
    def rows(self, tokens, embedded):
        return self.own[None] + next(COUNT)


class OtherValuesInATrace(Sound):
    def rows(self, tokens, embedded):
        is_traced = isinstance(embedded, jax.core.Tracer)
        return self.own[None] * (1.01 if is_traced else 1.0)


class MeanOfTheBatch(Sound):
    def rows(self, tokens, embedded):
        return self.own[None] + embedded.mean((0, 1))


class FirstExampleForAll(Sound):
    def rows(self, tokens, embedded):
        return self.own[None] + embedded[:1, :1]


class ByPositionInTheBatch(Sound):
    def rows(self, tokens, embedded):
        return self.own[None] + jnp.arange(len(tokens))[:, None, None]


class SeesPadding(Sound):
    def rows(self, tokens, embedded):
        return self.own[None] + jnp.full((len(tokens), 1, 1), tokens.shape[1])


class MeanWithPadding(Sound):
    def rows(self, tokens, embedded):
        return self.own[None] + embedded.mean(1, keepdims=True)


class ChangesAllPositions(SoundLayers):
    def layer(self, layer, hidden, state):
        return hidden + self.own.astype(hidden.dtype).mean(0)


class MixesPositions(SoundLayers):
    def activations(self, layer, site, x, state):
        return x + x.mean(1, keepdims=True) * self.factor.astype(x.dtype).mean()


class CumulatesPositions(SoundLayers):
    def activations(self, layer, site, x, state):
        return x + self.factor.astype(x.dtype).mean() * x[:, ::-1]


class OtherMatrix(Sound):
    def matrix(self):
        return self.own * 2


class MatrixAndMore(Sound):
    def matrix(self):
        return self.own

    def layer(self, layer, hidden, state):
        return hidden.at[:, 0].add(self.own.astype(hidden.dtype)[0])


class MatrixOfAnotherPlace(Sound):
    def matrix(self):
        return self.own

    def input(self, tokens, embedded):
        return super().input(tokens, embedded)[:, ::-1]


class NeverRead(Sound):
    def setup(self):
        super().setup()
        self.more = self.parameter("more", nn.initializers.ones, (2, 2))


class StopsTheGradient(Sound):
    def rows(self, tokens, embedded):
        return jax.lax.stop_gradient(self.own)[None]


class TrainsNothing(Sound):
    def is_trained(self, path):
        return False


class InfiniteGradient(Sound):
    def penalty(self):
        return jnp.sqrt(0 * jnp.sum(self.own**2))


class FieldOfAFunction(Sound):
    how: Any = len

    def setup(self):
        super().setup()
        self.more = self.parameter("more", nn.initializers.ones, (2, 2))

    def rows(self, tokens, embedded):
        return self.own[None] * self.more.mean()


class DividesByPositions(Sound):
    """Knows the number of positions, which is 1 when they are decoded one after another."""

    sides: tuple[str, ...] = ("encoder", "decoder")

    def activations(self, layer, site, x, state):
        return x / x.shape[1] if site == "self_attention/values" else x


class OtherUnderFlaxformer(Sound):
    """Adds 1 in a stack of Flaxformer."""

    def rows(self, tokens, embedded):
        is_in_flaxformer = "flaxformer" in type(self.parent).__module__
        return super().rows(tokens, embedded) + is_in_flaxformer


PLANTED = [
    Planted("points", HalfPrecision, "'half' is bfloat16, expected float32"),
    Planted("points", WrongWidth, "rows returned the shape [1, 3, 7]"),
    Planted("points", IntegerMask, "input_mask returned int32"),
    Planted("points", ChangesTheDtype, "layer returned float32"),
    Planted("points", StateOfOneExample, "start returned float32 [3]"),
    Planted("points", PenaltyOfARow, "penalty returned float32 [3], expected a floating scalar"),
    Planted("points", NothingToTrain, "makes no parameter"),
    Planted("points", NoInitializer, "'own' of the prompt has no initializer"),
    Planted("names", NearlyAPoint, "'penaltys', which is nearly 'penalty'"),
    Planted("names", NearlyAnother, "'activation', which is nearly 'activations'"),
    Planted("length", TwentyPositions, "adds 20 positions for a length of 3 and of 5"),
    Planted("length", TwoPositionsOfPrefix, "adds 2 positions"),
    Planted("mask", AllPositionsReal, "input_mask marks"),
    Planted("mask", CountsPaddingAway, "input_mask marks"),
    Planted("deterministic", OtherValuesEachTime, "input differs between two calls"),
    Planted("deterministic", OtherValuesInATrace, "under jax.jit and in a plain call"),
    Planted("examples_alone", MeanOfTheBatch, "one by one and together"),
    Planted("examples_alone", FirstExampleForAll, "one by one"),
    Planted("examples_alone", ByPositionInTheBatch, "one by one"),
    Planted("padding", SeesPadding, "with and without more padding"),
    Planted("padding", MeanWithPadding, "with and without more padding"),
    Planted("own_positions", ChangesAllPositions, "layer changes"),
    Planted("own_positions", MixesPositions, "mix positions"),
    Planted("own_positions", CumulatesPositions, "mix positions"),
    Planted("matrix", OtherMatrix, "input, and matrix before it"),
    Planted("matrix", MatrixAndMore, "has a matrix, and acts in layer as well"),
    Planted("matrix", MatrixOfAnotherPlace, "input, and matrix before it"),
    Planted("gradients", NeverRead, "no output depends on more"),
    Planted("gradients", StopsTheGradient, "no output depends on own"),
    Planted("gradients", TrainsNothing, "names no parameter"),
    Planted("gradients", InfiniteGradient, "is not finite"),
    Planted("saves_and_loads", FieldOfAFunction, "FieldOfAFunction.how is"),
    Planted("cached", DividesByPositions, "logits of decoding with a cache"),
]
