"""The contract of prompt modules, as checks.

`PROMPT_CHECKS` is the list; `check_prompt` runs it on a class or another factory of modules. A
check calls the points as an engine does, on a small stack of each side in which the module acts,
and knows nothing else about variants.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from prompt_tuning_core import prompts
from prompt_tuning_core.parameters import check_points, make_parameters
from prompt_tuning_core.prompts import InputPrompt, PromptModule, Stack
from prompt_tuning_testing import checks
from prompt_tuning_testing.checks import Check, CheckResults, NotTriedError, require
from prompt_tuning_testing.contracts import Contract, check_plugin
from prompt_tuning_testing.prompts_in_models import Models

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

STACKS: Mapping[str, Stack] = {
    "encoder": Stack("encoder", 8, 2, 2, 4, 16, ("attention",)),
    "decoder": Stack("decoder", 8, 2, 2, 4, 16, ("self_attention", "encoder_decoder_attention")),
}
"""The stacks that the checks try, by side."""

_TOLERANCE = 1e-5


class Batch(NamedTuple):
    """Sizes of a batch, and the seed of its values: B examples of at most T tokens."""

    size: int
    tokens: int
    seed: int

    def __str__(self) -> str:
        return f"{self.size} examples of {self.tokens} tokens, key {self.seed}"


class Bound:
    """A prompt module in one stack, with parameters."""

    def __init__(self, module: PromptModule, parameters: Mapping[str, jax.Array]) -> None:
        self.module = module
        self.parameters = dict(parameters)

    def call(
        self, point: str, *arguments: Any, parameters: Mapping[str, jax.Array] | None = None
    ) -> Any:
        """Calls a point, without any source of random numbers."""
        given = self.parameters if parameters is None else parameters
        variables = {"params": traverse_util.unflatten_dict(dict(given), sep="/")}
        return self.module.apply(variables, *arguments, method=point)

    def overrides(self, point: str) -> bool:
        """True if the class of the module overrides a point."""
        return prompts.overrides(self.module, point)


@dataclasses.dataclass(frozen=True)
class PromptSubject:
    """A factory of prompt modules, and how to try it; see `check_prompt`."""

    factory: Callable[..., PromptModule]
    fields: Mapping[str, Any]
    length: int = 3
    first_tokens: Sequence[int] = ()
    seed: int = 0

    def module(self, length: int | None = None) -> PromptModule:
        """Makes a module with this length, as `prompts.make` does."""
        module = prompts.made_by(functools.partial(self.factory, **self.fields))
        fill: dict[str, Any] = {} if module.length else {"length": length or self.length}
        if module.prompt_init is None:
            fill["prompt_init"] = jax.nn.initializers.normal(0.5)
        return module.clone(**fill)

    @property
    def sides(self) -> tuple[str, ...]:
        """The stacks in which the module acts."""
        return tuple(self.module().sides)

    def in_stack(self, side: str, length: int | None = None) -> PromptModule:
        """Makes the module of one stack."""
        return prompts.in_stack(self.module(length), STACKS[side])

    def bound(self, side: str, length: int | None = None) -> Bound:
        """Makes a module and its parameters, changed a little so that none is zero by design."""
        module = self.in_stack(side, length)
        made = make_parameters(module, jax.random.key(self.seed))
        generator = np.random.default_rng(self.seed)
        return Bound(
            module,
            {
                name: leaf + 0.1 * generator.standard_normal(leaf.shape).astype(np.float32)
                for name, leaf in made.items()
            },
        )

    @functools.cached_property
    def bounds(self) -> list[Bound]:
        """The modules of all sides."""
        return [self.bound(side) for side in self.sides]

    def batches(self) -> SearchStrategy[Batch]:
        """Makes the strategy of the batches."""
        from hypothesis import strategies

        # Few sizes: JAX compiles for each.
        sizes, lengths = checks.integers(2, 3), checks.integers(0, 1).map(lambda n: 3 + 3 * n)
        return strategies.builds(Batch, sizes, lengths, checks.integers(0, 999))

    def tokens(self, batch: Batch) -> jax.Array:
        """Returns tokens `[B, T]`, padded to the right; the first example has no padding."""
        generator = np.random.default_rng(batch.seed)
        tokens = generator.integers(2, 30, (batch.size, batch.tokens))
        for row, length in enumerate(generator.integers(1, batch.tokens + 1, batch.size)):
            tokens[row, batch.tokens if row == 0 else length :] = 0
        if self.first_tokens:
            tokens[:, 0] = generator.choice(self.first_tokens, batch.size)
        return jnp.asarray(tokens, jnp.int32)


def check_prompt(
    factory: Callable[..., PromptModule],
    fields: Mapping[str, Any] | None = None,
    *,
    length: int = 3,
    first_tokens: Sequence[int] = (),
    max_examples: int = 4,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> CheckResults:
    """Checks a prompt module against its contract (docs/prompt-modules.md).

    Args:
      factory: The class, or another factory of modules.
      fields: Its fields, as gin would set them. A field for an initializer gets a sample.
      length: P, for a module without a length of its own.
      first_tokens: The ids that an example may begin with; () for any id.
      max_examples: The most examples that each check draws.
      seed: Determines the examples and the parameters.
      expected_failures: The checks that the module is known to fail: reasons by the names of
        checks. If the module passes one of them, that is a failure.

    Returns:
      One result for each of `PROMPT_CHECKS`.
    """
    return check_plugin(
        factory,
        "prompt",
        fields,
        length=length,
        first_tokens=first_tokens,
        max_examples=max_examples,
        seed=seed,
        expected_failures=expected_failures,
    )


def prompt_subject(
    factory: Callable[..., PromptModule],
    fields: Mapping[str, Any] | None = None,
    *,
    length: int = 3,
    first_tokens: Sequence[int] = (),
    max_examples: int = 4,
    seed: int = 0,
) -> PromptSubject:
    """Returns the subject of the checks; takes the same arguments as `check_prompt`.

    Raises:
      TypeError: If the fields are a function, as the arguments of an initializer may be.
    """
    del max_examples  # Each check draws its own.
    if callable(fields):
        raise TypeError("the fields of a prompt module are a mapping, and no function")
    samples: dict[str, Any] = {}
    for field in dataclasses.fields(factory) if isinstance(factory, type) else ():
        # `Sequence[Initializer]` may be empty.
        if str(field.type).startswith("Initializer") and field.default is None:
            samples[field.name] = jax.nn.initializers.normal(0.5)
    return PromptSubject(factory, {**samples, **(fields or {})}, length, first_tokens, seed)


def _embedded(tokens: jax.Array, width: int) -> jax.Array:
    """Returns an embedding of each token, 0 for padding."""
    table = np.random.default_rng(1).standard_normal((64, width)).astype(np.float32)
    table[0] = 0
    return jnp.asarray(table)[tokens]


def _random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class _Run(NamedTuple):
    """The results of the points for one batch."""

    hidden: jax.Array
    mask: jax.Array
    outputs: dict[str, jax.Array]


def _run(
    bound: Bound, tokens: jax.Array, parameters: Mapping[str, jax.Array] | None = None
) -> _Run:
    """Calls each point that the module overrides, as an engine does.

    It returns the outputs by name; their first axis is the batch.
    """
    stack = bound.module.stack
    call = functools.partial(bound.call, parameters=parameters)
    state = call("start", tokens)
    hidden = call("input", tokens, _embedded(tokens, stack.width))
    mask = call("input_mask", tokens)
    outputs = {"input": jnp.where(mask[..., None], hidden, 0)}
    batch, positions = mask.shape
    for number in range(stack.layers):
        if bound.overrides("layer"):
            # The same values for all examples, so that only their tokens differ.
            x = jnp.broadcast_to(_random(number, positions, stack.width), hidden.shape)
            changed = call("layer", number, x, state)
            outputs[f"layer {number}"] = jnp.where(mask[..., None], changed, 0)
        for attention in stack.attentions if bound.overrides("prefix") else ():
            found = call("prefix", number, attention, state)
            for part, value in zip(("keys", "values"), found or (), strict=False):
                whole = jnp.broadcast_to(value, (batch, *value.shape[1:]))
                outputs[f"prefix {part} of {attention} {number}"] = whole
        for site in stack.sites if bound.overrides("activations") else ():
            shape = (positions, *_tail(stack, site))
            x = jnp.broadcast_to(_random(number, *shape), (batch, *shape))
            value = call("activations", number, site, x, state)
            shown = jnp.reshape(mask, (*mask.shape, *[1] * (value.ndim - 2)))
            outputs[f"activations of {site} {number}"] = jnp.where(shown, value, 0)
    return _Run(hidden, mask, outputs)


def _tail(stack: Stack, site: str) -> tuple[int, ...]:
    return (stack.mlp_width,) if site == "mlp" else (stack.heads, stack.head_width)


def _require_close(found: Any, expected: Any, what: str) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    require(found.shape == expected.shape, f"{what}: {found.shape} instead of {expected.shape}")
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    difference = float(np.abs(found - expected).max(initial=0))
    require(difference <= _TOLERANCE * largest, f"{what}: they differ by {difference:.3g}")


def _check_points(subject: PromptSubject, nothing: None) -> None:
    for side in subject.sides:
        for dtype in ("float32", "bfloat16"):
            module = subject.in_stack(side)
            made = make_parameters(module, jax.random.key(subject.seed), dtype)
            require(
                made or side != subject.sides[0],
                f"makes no parameter in the {side}: it trains none",
            )
            check_points(module, made, dtype)


def _check_names(subject: PromptSubject, nothing: None) -> None:
    for name, value in vars(type(subject.module())).items():
        if (
            inspect.isfunction(value)
            and not name.startswith("_")
            and not hasattr(InputPrompt, name)
        ):
            near = difflib.get_close_matches(name, prompts.POINTS, n=1, cutoff=0.8)
            require(
                not near,
                f"has a method {name!r}, which is nearly {' '.join(near)!r}; name it otherwise",
            )


def _check_length(subject: PromptSubject, nothing: None) -> None:
    def added(length: int) -> list[int]:
        counts = []
        for side in subject.sides:
            bound = subject.bound(side, length)
            run = _run(bound, subject.tokens(Batch(2, 4, 0)))
            prefix = [v.shape[1] for name, v in run.outputs.items() if name.startswith("prefix")]
            counts += [run.mask.shape[1] - 4, *prefix]
            matrix = bound.call("matrix") if prompts.may_be_plain(bound.module) else None
            counts += [] if matrix is None else [len(matrix)]
        return [max(count, 0) for count in counts]

    short, long = added(subject.length), added(subject.length + 2)
    require(
        subject.module().length != subject.length or not any(short) or short != long,
        f"adds {max(short)} positions for a length of {subject.length} and of {subject.length + 2}",
    )


def _check_mask(subject: PromptSubject, batch: Batch) -> None:
    for bound in subject.bounds:
        tokens = subject.tokens(batch)
        counts = np.asarray(bound.call("input_mask", tokens).sum(axis=1))
        real = np.asarray((tokens > 0).sum(axis=1))
        more = counts - real
        require(
            (more == more[0]).all(),
            f"input_mask marks {counts.tolist()} positions of examples of {real.tolist()} tokens",
        )
        wider = subject.tokens(batch._replace(tokens=batch.tokens + 1))
        grown = bound.call("input_mask", wider).shape[1] - bound.call("input_mask", tokens).shape[1]
        require(grown == 1, f"S grows by {grown} where T grows by 1")


def _check_deterministic(subject: PromptSubject, batch: Batch) -> None:
    for bound in subject.bounds:
        tokens = subject.tokens(batch)
        first, again = _run(bound, tokens), _run(bound, tokens)
        jitted = jax.jit(lambda tokens, bound=bound: _run(bound, tokens).outputs)(tokens)
        for name, value in first.outputs.items():
            same = np.array_equal(np.asarray(value), np.asarray(again.outputs[name]))
            require(same, f"{name} differs between two calls")
            _require_close(jitted[name], value, f"{name}, under jax.jit and in a plain call")


def _check_examples_alone(subject: PromptSubject, batch: Batch) -> None:
    for bound in subject.bounds:
        tokens = subject.tokens(batch)
        whole = _run(bound, tokens).outputs
        order = np.random.default_rng(batch.seed).permutation(batch.size)
        shuffled = _run(bound, tokens[order]).outputs
        alone = [_run(bound, tokens[row : row + 1]).outputs for row in range(batch.size)]
        for name, value in whole.items():
            _require_close(shuffled[name], value[order], f"{name}, with the examples in two orders")
            joined = np.concatenate([np.asarray(one[name]) for one in alone])
            _require_close(joined, value, f"{name}, of examples one by one and together")


def _check_padding(subject: PromptSubject, batch: Batch) -> None:
    for bound in subject.bounds:
        tokens = subject.tokens(batch)
        padded = jnp.pad(tokens, ((0, 0), (0, 3)))
        short, long = _run(bound, tokens), _run(bound, padded)
        for row in range(batch.size):
            one, other = (np.asarray(run.hidden[row])[np.asarray(run.mask[row])]
                          for run in (short, long))  # fmt: skip
            _require_close(other, one, "input, with and without more padding")
        for name, value in short.outputs.items():
            if name.startswith("prefix"):
                _require_close(long.outputs[name], value, f"{name}, with and without more padding")


def _check_own_positions(subject: PromptSubject, batch: Batch) -> None:
    """`layer` changes only the prompt's positions; `activations` changes each one by itself."""
    for bound in subject.bounds:
        stack, tokens = bound.module.stack, subject.tokens(batch)
        state = bound.call("start", tokens)
        size, positions = bound.call("input_mask", tokens).shape
        added = positions - batch.tokens
        for number in range(stack.layers):
            if bound.overrides("layer"):
                x = _random(number, size, positions, stack.width)
                moved = np.abs(bound.call("layer", number, x, state) - x).max(axis=2) > 0
                most = int(moved.sum(axis=1).max())
                limit = max(added, bound.module.length)
                require(most <= limit, f"layer changes {most} positions, expected at most {limit}")
            for site in stack.sites if bound.overrides("activations") else ():
                x = _random(number, size, positions, *_tail(stack, site))
                other = x.at[:, -1].add(1.0)
                one, two = (
                    np.asarray(bound.call("activations", number, site, given, state))
                    for given in (x, other)
                )
                _require_close(two[:, :-1], one[:, :-1], f"activations of {site} mix positions")


def _check_matrix(subject: PromptSubject, batch: Batch) -> None:
    bound = subject.bounds[0]
    if not prompts.may_be_plain(bound.module) or not bound.overrides("matrix"):
        return
    matrix = bound.call("matrix")
    if matrix is None:
        return
    points = [point for point in ("layer", "prefix", "activations") if bound.overrides(point)]
    require(not points, f"has a matrix, and acts in {', '.join(points)} as well")
    tokens = subject.tokens(batch)
    embedded = _embedded(tokens, bound.module.stack.width)
    rows = jnp.broadcast_to(matrix, (batch.size, *matrix.shape))
    expected = jnp.concatenate([rows, embedded], axis=1)
    _require_close(bound.call("input", tokens, embedded), expected, "input, and matrix before it")
    ones = jnp.ones(rows.shape[:2], bool)
    mask = jnp.concatenate([ones, tokens > 0], axis=1)
    same = np.array_equal(bound.call("input_mask", tokens), mask)
    require(same, "input_mask is not that of the matrix before the input")


def _check_gradients(subject: PromptSubject, batch: Batch) -> None:
    reached: dict[str, bool] = {}
    for bound in subject.bounds:
        tokens = subject.tokens(batch._replace(size=4))

        def total(
            parameters: Mapping[str, jax.Array], bound: Bound = bound, tokens: jax.Array = tokens
        ) -> jax.Array:
            outputs = _run(bound, tokens, parameters).outputs
            weights = {
                n: _random(number, *v.shape) for number, (n, v) in enumerate(outputs.items())
            }
            own = bound.call("penalty", parameters=parameters)
            return sum((jnp.sum(weights[n] * v**2) for n, v in outputs.items()), jnp.sum(own))

        gradient = jax.grad(total)(bound.parameters)
        for name, leaf in gradient.items():
            require(bool(jnp.isfinite(leaf).all()), f"the gradient of {name!r} is not finite")
            if bound.module.is_trained(name):
                reached[name] = reached.get(name, False) or bool(jnp.any(leaf != 0))
    missed = [name for name, found in reached.items() if not found]
    require(not missed, f"no output depends on {', '.join(missed)}, and is_trained names it")
    require(reached, "is_trained names no parameter: nothing would be trained")


def _check_saves_and_loads(subject: PromptSubject, nothing: None) -> None:
    try:
        from prompt_tuning_files import module_files
    except ImportError as error:
        raise NotTriedError(f"prompt-tuning-files is not installed ({error})") from error
    description = module_files.describe(subject.module())
    bounds = subject.bounds
    matrix = None
    if prompts.may_be_plain(bounds[0].module):
        matrix = bounds[0].call("matrix")
    values = {
        f"{bound.module.stack.side}/prompt/{name}": np.asarray(leaf)
        for bound in bounds
        for name, leaf in bound.parameters.items()
    }
    plain = None if matrix is None else np.asarray(matrix)
    if module_files.is_plain(values, plain):
        return
    with tempfile.TemporaryDirectory() as folder:
        module_files.save(Path(folder, "prompt"), values, plain, description, {})
        file = module_files.saved_prompt(
            Path(folder, "prompt.safetensors"), jax.nn.initializers.zeros, whole=True
        )
        # If no plugin provides the class, the caller must give it.
        module = file.module(subject.module if ":" in description["plugin"] else None)
        for side, bound in zip(subject.sides, bounds, strict=True):
            made = make_parameters(
                prompts.in_stack(module, STACKS[side]), jax.random.key(subject.seed)
            )
            for name, leaf in bound.parameters.items():
                require(name in made, f"a loaded module has no parameter {name!r}")
                _require_close(made[name], leaf, f"{name}, before and after the file")


def _check_cached(subject: PromptSubject, batch: Batch) -> None:
    models = Models(subject.module(), subject.tokens(batch), subject.seed, layers=1)
    _require_close(models.logits_by_steps, models.logits, "logits of decoding with a cache")


def _check_flaxformer(subject: PromptSubject, batch: Batch) -> None:
    models = Models(subject.module(), subject.tokens(batch), subject.seed)
    # First: without Flaxformer, nothing needs to be compiled.
    found = models.flaxformers_logits
    _require_close(found, models.logits, "logits under Flaxformer, and in the engine local")


PROMPT_CHECKS: tuple[Check[PromptSubject], ...] = (
    Check(
        "points",
        1,
        "it makes named float32 parameters, and each point returns what the protocol says",
        _check_points,
        is_needed=True,
    ),
    Check("names", 1, "no method has nearly the name of a point", _check_names),
    Check("length", 2, "the positions that it adds follow from its length", _check_length),
    Check(
        "mask",
        3,
        "input_mask marks the prompt's positions and the tokens that are no padding",
        _check_mask,
        PromptSubject.batches,
    ),
    Check(
        "deterministic",
        4,
        "without a source of random numbers it always returns the same, even under jax.jit",
        _check_deterministic,
        PromptSubject.batches,
        most=2,
    ),
    Check(
        "examples_alone",
        5,
        "an example's values depend on no other example",
        _check_examples_alone,
        PromptSubject.batches,
        most=4,
    ),
    Check("padding", 5, "padding changes nothing", _check_padding, PromptSubject.batches, most=4),
    Check(
        "own_positions",
        6,
        "layer changes the prompt's positions only, activations each position by itself",
        _check_own_positions,
        PromptSubject.batches,
        most=3,
    ),
    Check(
        "matrix",
        7,
        "a module with a matrix does what the plain prompt with this matrix does",
        _check_matrix,
        PromptSubject.batches,
        most=3,
    ),
    Check(
        "gradients",
        8,
        "each parameter that is_trained names has an effect",
        _check_gradients,
        PromptSubject.batches,
        most=2,
    ),
    Check(
        "saves_and_loads",
        9,
        "its file gives back the same module and values",
        _check_saves_and_loads,
    ),
    Check(
        "cached",
        10,
        "decoding with a cache, one position after another, gives the same logits",
        _check_cached,
        PromptSubject.batches,
        most=1,
    ),
    Check(
        "flaxformer",
        11,
        "under Flaxformer a model gives the same logits",
        _check_flaxformer,
        PromptSubject.batches,
        most=1,
    ),
)

CONTRACT = Contract(PROMPT_CHECKS, prompt_subject, examples=4)
