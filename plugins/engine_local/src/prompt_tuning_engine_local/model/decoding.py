"""Decoding: makes sequences of ids from the logits of each step.

Shapes below: B examples, N sequences of each, T the most ids of a sequence, V vocabulary size, and
R = B * N rows, one for each sequence. Rows 0 to N - 1 are the first example's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.random import fold_in

from prompt_tuning_core.errors import InputError
from prompt_tuning_engine_local.model import losses

StepFn: TypeAlias = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


class Decoded(NamedTuple):
    """The sequences of each example, the best first.

    Attributes:
      ids: int32 `[B, N, T]`: the ids, including EOS if a sequence reached it, then 0.
      scores: float32 `[B, N]`; each function documents its own.
    """

    ids: jax.Array
    scores: jax.Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """The examples to decode, as a decode function meets them.

    Attributes:
      step: `(tokens [R], cache, position) -> (logits [R, V], cache)`, with float32 logits. The
        tokens are those before the position, 0 at the start.
      cache: The cache that `step` expects at position 0, for one row an example.
      spread: `(cache, n) -> cache`, the cache for n rows an example.
      gather: `(cache, rows [R]) -> cache`, the cache with row `rows[r]` in the place of each row r,
        both of one example.
      batch_size: B.
      max_length: T.
      eos_id: The id that ends a sequence.
      keys: A PRNG key for each example, `[B]`; None where nothing is drawn.
      encode: Returns the ids of a text, without EOS; None where there are no texts.
    """

    step: StepFn
    cache: Any
    spread: Callable[[Any, int], Any]
    gather: Callable[[Any, jax.Array], Any]
    batch_size: int
    max_length: int
    eos_id: int
    keys: jax.Array | None = None
    encode: Callable[[str], Sequence[int]] | None = None


DecodeFn: TypeAlias = Callable[[Problem], Decoded]
"""A function that decodes; gin binds its other parameters."""


def joint(problem: Problem, members: int) -> Problem:
    """Returns the problem of an ensemble, which answers by the mean of its members' logits.

    For example, of 3 prompts for 8 examples, rows 0 to 2 of the batch are the first example's. All
    of them get the same ids, and the result has one answer, or N, for each of the 8.

    Args:
      problem: The problem of all members, B * `members` examples.
      members: How many copies of each example follow each other.
    """

    def rows_of(rows: jax.Array, n: int) -> jax.Array:
        """Returns the rows `[B, members, n]` of all members from those of the examples."""
        example, sequence = (part.reshape(-1, 1, n) for part in jnp.divmod(rows, n))
        return (example * members + jnp.arange(members)[:, None]) * n + sequence

    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
        n = len(tokens) // batch_size
        each = jnp.broadcast_to(tokens.reshape(-1, 1, n), (batch_size, members, n))
        logits, cache = problem.step(each.reshape(-1), cache, position)
        mean = jnp.mean(logits.reshape(batch_size, members, n, -1), axis=1)
        return mean.reshape(batch_size * n, -1), cache

    batch_size = problem.batch_size // members
    return dataclasses.replace(
        problem,
        step=step,
        gather=lambda cache, rows: problem.gather(
            cache, rows_of(rows, len(rows) // batch_size).reshape(-1)
        ),
        batch_size=batch_size,
        keys=None if problem.keys is None else problem.keys[::members],
    )


def greedy(problem: Problem) -> Decoded:
    """Takes the most probable id at each step until each sequence has ended.

    Returns:
      One sequence an example; the score is its log-likelihood.
    """
    return _row_by_row(problem, 1, _most_probable)


def temperature_sample(
    problem: Problem,
    num_decodes: int = 1,
    temperature: float = 1.0,
    topk: int = 0,
    topp: float = 0.0,
    seed: int = 0,
) -> Decoded:
    """Draws each id from the model's distribution, or from its most probable ids.

    The parameters are T5X's. An answer depends on its example's key and on `seed`, and not on the
    other examples of the batch.

    Args:
      problem: The examples, with keys.
      num_decodes: N, the number of sequences to draw for each example.
      temperature: Divides the logits: below 1, probable ids get more probable. 0 takes the most
        probable id, as `greedy` does.
      topk: The number of most probable ids to draw from; 1 is `greedy`, 0 draws from all.
      topp: Draws from the smallest set of most probable ids that have this probability together
        (nucleus sampling, Holtzman et al. 2020); 0 or 1 draws from all ids.
      seed: A whole number; another gives other answers (DECODING_SEED).

    Returns:
      N sequences an example; scores are log-likelihoods in the model's own distribution. (T5X's
      are by default those in the distribution that the ids are drawn from.)

    Raises:
      InputError: If a parameter is out of range, both sets are asked for, or there are no keys.
    """
    _check_sampling(num_decodes, temperature, topk, topp, seed)
    if temperature == 0 or topk == 1:
        return _row_by_row(problem, num_decodes, _most_probable)
    if problem.keys is None:
        raise InputError("decoding.temperature_sample draws ids; give a PRNG key for each example")
    keys = _keys_of_rows(problem.keys, num_decodes, seed)

    def draw(logits: jax.Array, position: jax.Array) -> jax.Array:
        logits /= temperature
        if topk:
            size = logits.shape[1]
            most = f"at most {size}, the model's number of ids"
            _check("temperature_sample", "topk", topk, topk <= size, most)
            logits = _at_least(logits, jax.lax.top_k(logits, topk)[0][:, -1:])
        if 0 < topp < 1:
            logits = _at_least(logits, _least_of_nucleus(logits, topp))
        return jax.vmap(lambda key, row: jax.random.categorical(fold_in(key, position), row))(
            keys, logits
        )

    return _row_by_row(problem, num_decodes, draw)


def rank_classification(problem: Problem, labels: Sequence[str] = ()) -> Decoded:
    """Ranks given labels by how probable the model finds each as the whole answer.

    The encoded input and the prompt are computed once for all labels.

    Args:
      problem: The examples, with `encode`.
      labels: N different texts (RANK_LABELS).

    Returns:
      The ids of all labels with EOS; the score is the log-likelihood of these ids.

    Raises:
      InputError: If `labels` are no different texts, or longer than T ids.
    """
    ids = jnp.asarray(_ids_of(problem, labels), jnp.int32)
    rows = jnp.tile(ids, (problem.batch_size, 1))
    return _row_by_row(problem, len(ids), lambda logits, position: rows[:, position])


def beam_search(problem: Problem, num_decodes: int = 4, alpha: float = 0.6) -> Decoded:
    """Searches for the most probable sequences, N at once, as T5X does.

    Each step extends the N live sequences by their 2 N most probable ids. Those that end compete
    for N places by their score, log-likelihood / ((5 + length) / 6)^alpha (Wu et al. 2016, section
    7), with EOS in the length. The others compete for the N live places by log-likelihood. The
    search of an example is over when no live sequence can still win a place.

    Args:
      problem: The examples.
      num_decodes: N, the number of beams.
      alpha: Exponent of the length penalty; 0 for none. The higher, the longer the answers.

    Returns:
      N sequences an example with their scores. A place that no sequence took has the ids 0 and the
      score minus infinity. If no sequence of an example ended, all are its live ones, and the
      scores are their log-likelihoods.

    Raises:
      InputError: If a parameter is out of range.
    """
    _check("beam_search", "num_decodes", num_decodes, _is_whole(num_decodes, 1), _AT_LEAST_1)
    _check("beam_search", "alpha", alpha, _is_number(alpha, 0), _AT_LEAST_0)
    most = problem.max_length

    def can_improve(state: _Beams) -> jax.Array:
        # The best that a live sequence can get: no further loss, and the largest divisor.
        best = jnp.max(state.live.scores, axis=1) / _length_penalty(most, alpha)
        worst = jnp.min(state.ended.scores, axis=1)
        return (state.position < most) & ~jnp.all(worst > best)

    def step(state: _Beams) -> _Beams:
        logits, cache = problem.step(state.tokens, state.cache, state.position)
        found, parents, ids = _extended(state.live, logits, state.position)
        ends = ids == problem.eos_id
        penalty = _length_penalty(state.position + 1, alpha)
        ended = Decoded(
            jnp.concatenate([state.ended.ids, found.ids], axis=1),
            jnp.concatenate(
                [state.ended.scores, jnp.where(ends, found.scores / penalty, -jnp.inf)], axis=1
            ),
        )
        live, order = _best(
            found._replace(scores=jnp.where(ends, -jnp.inf, found.scores)), num_decodes
        )
        parents, tokens = (jnp.take_along_axis(one, order, axis=1) for one in (parents, ids))
        first_rows = num_decodes * jnp.arange(problem.batch_size)[:, None]
        cache = problem.gather(cache, (first_rows + parents).reshape(-1))
        ended, _ = _best(ended, num_decodes)
        return _Beams(state.position + 1, tokens.reshape(-1), live, ended, cache)

    state = jax.lax.while_loop(can_improve, step, _beams_at_start(problem, num_decodes))
    any_ended = jnp.any(state.ended.scores > -jnp.inf, axis=1)[:, None]
    return Decoded(
        jnp.where(any_ended[..., None], state.ended.ids, state.live.ids),
        jnp.where(any_ended, state.ended.scores, state.live.scores),
    )


def check(
    decode_fn: DecodeFn,
    max_length: int,
    vocabulary_size: int,
    eos_id: int,
    encode: Callable[[str], Sequence[int]],
) -> int:
    """Tries a decode function on logits of any value; computes nothing.

    So bad parameters are found before a model is read.

    Args:
      decode_fn: The function.
      max_length: T.
      vocabulary_size: V.
      eos_id: See `Problem`.
      encode: See `Problem`.

    Returns:
      N, the number of sequences of each example.

    Raises:
      InputError: From the function, if a parameter is bad; or if it does not return `Decoded`.
    """
    batch_size = 2

    def decoded() -> Decoded:
        problem = Problem(
            step=lambda tokens, cache, position: (jnp.zeros((len(tokens), vocabulary_size)), cache),
            cache=(),
            spread=lambda cache, n: cache,
            gather=lambda cache, rows: cache,
            batch_size=batch_size,
            max_length=max_length,
            eos_id=eos_id,
            keys=jax.random.split(jax.random.key(0), batch_size),
            encode=encode,
        )
        return decode_fn(problem)

    found = jax.eval_shape(decoded)
    if isinstance(found, Decoded):
        rows = (batch_size, *found.scores.shape[1:2])
        described = [(part.shape, part.dtype) for part in found]
        if described == [((*rows, max_length), jnp.int32), (rows, jnp.float32)]:
            return rows[1]
    raise InputError(
        f"decode_fn returned {found!r}, expected decoding.Decoded of ids, int32 [B, N, T], and "
        f"scores, float32 [B, N], here with B = {batch_size} and T = {max_length}"
    )


class _Beams(NamedTuple):
    """A beam search before a position.

    Attributes:
      position: The number of ids that the live sequences have.
      tokens: int32 `[R]`, the last id of each live sequence.
      live: The sequences that go on, with their log-likelihoods.
      ended: The best that have ended, with their scores; places that none took come last.
      cache: The cache of the live sequences.
    """

    position: jax.Array
    tokens: jax.Array
    live: Decoded
    ended: Decoded
    cache: Any


def _beams_at_start(problem: Problem, n: int) -> _Beams:
    ids = jnp.zeros((problem.batch_size, n, problem.max_length), jnp.int32)
    none = Decoded(ids, jnp.full((problem.batch_size, n), -jnp.inf))
    # All live sequences are equal at the start: one alone counts.
    one = Decoded(ids, none.scores.at[:, 0].set(0.0))
    tokens = jnp.zeros(problem.batch_size * n, jnp.int32)
    return _Beams(jnp.int32(0), tokens, one, none, problem.spread(problem.cache, n))


def _extended(
    live: Decoded, logits: jax.Array, position: jax.Array
) -> tuple[Decoded, jax.Array, jax.Array]:
    """Returns the 2 N best sequences that are one id longer.

    Returns:
      The sequences with their log-likelihoods, and two int32 `[B, 2 N]`: the number of the live
      sequence that each extends, and the id that it adds.
    """
    batch, n = live.scores.shape
    k = min(2 * n, logits.shape[1])
    # The best of all are among the best of each: a short list is quicker to sort.
    values, ids = jax.lax.top_k(logits, k)
    values -= jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    scores = (live.scores[:, :, None] + values.reshape(batch, n, k)).reshape(batch, n * k)
    scores, order = jax.lax.top_k(scores, 2 * n)
    parents = order // k
    ids = jnp.take_along_axis(ids.reshape(batch, n * k), order, axis=1)
    sequences = jnp.take_along_axis(live.ids, parents[..., None], axis=1)
    sequences = jax.lax.dynamic_update_slice_in_dim(sequences, ids[..., None], position, axis=2)
    return Decoded(sequences, scores), parents, ids


def _best(found: Decoded, n: int) -> tuple[Decoded, jax.Array]:
    """Returns the n sequences of the highest scores, highest first, and their numbers `[B, n]`."""
    scores, order = jax.lax.top_k(found.scores, n)
    return Decoded(jnp.take_along_axis(found.ids, order[..., None], axis=1), scores), order


def _length_penalty(length: jax.Array | int, alpha: float) -> Any:
    return ((5.0 + length) / 6.0) ** alpha


def _row_by_row(
    problem: Problem, n: int, choose: Callable[[jax.Array, jax.Array], jax.Array]
) -> Decoded:
    """Chooses an id for each row at each step until each sequence has ended.

    Args:
      problem: The examples.
      n: N.
      choose: `(logits [R, V], position) -> ids [R]`.

    Returns:
      The sequences, sorted by their log-likelihoods, which are the scores.
    """

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        position, _, _, _, ended, _ = state
        return (position < problem.max_length) & ~jnp.all(ended)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        position, tokens, ids, scores, ended, cache = state
        logits, cache = problem.step(tokens, cache, position)
        chosen = choose(logits, position).astype(jnp.int32)
        log_probability, _ = losses.target_log_probabilities(logits, chosen)
        scores = jnp.where(ended, scores, scores + log_probability)
        tokens = jnp.where(ended, 0, chosen)
        ids = jax.lax.dynamic_update_slice_in_dim(ids, tokens[:, None], position, axis=1)
        return position + 1, tokens, ids, scores, ended | (tokens == problem.eos_id), cache

    rows = problem.batch_size * n
    state = (
        jnp.int32(0),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((rows, problem.max_length), jnp.int32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(rows, bool),
        problem.cache if n == 1 else problem.spread(problem.cache, n),
    )
    _, _, ids, scores, _, _ = jax.lax.while_loop(unfinished, step, state)
    found = Decoded(ids.reshape(problem.batch_size, n, -1), scores.reshape(problem.batch_size, n))
    # XLA leaves out the scores of a caller that needs the ids alone, if these are not sorted.
    return found if n == 1 else _best(found, n)[0]


def _most_probable(logits: jax.Array, position: jax.Array) -> jax.Array:
    del position
    # `jnp.argmax`, which takes five times as long on CPUs. Of equal logits the first wins.
    largest = jnp.max(logits, axis=-1, keepdims=True)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.min(jnp.where(logits == largest, ids, logits.shape[1] - 1), axis=-1)


def _check_sampling(
    num_decodes: object, temperature: object, topk: object, topp: Any, seed: Any
) -> None:
    """Checks the parameters of `temperature_sample`."""
    name, most = "temperature_sample", 2**32 - 1
    is_seed = _is_whole(seed, 0) and seed <= most
    _check(name, "num_decodes", num_decodes, _is_whole(num_decodes, 1), _AT_LEAST_1)
    _check(name, "temperature", temperature, _is_number(temperature, 0), _AT_LEAST_0)
    _check(name, "topk", topk, _is_whole(topk, 0), "a whole number of at least 0, 0 for all ids")
    _check(name, "topp", topp, _is_number(topp, 0) and topp <= 1, "a number from 0 to 1")
    _check(name, "seed", seed, is_seed, f"a whole number from 0 to {most} (DECODING_SEED)")
    if topk and topp:
        raise InputError(
            f"decoding.{name} has topk {topk} and topp {topp}, and draws from one set; set the "
            "other parameter to 0"
        )


def _keys_of_rows(keys: jax.Array, n: int, seed: int) -> jax.Array:
    """Returns a key for each row, `[R]`, from those of the examples."""

    def of_one(key: jax.Array) -> jax.Array:
        return jax.vmap(lambda number: fold_in(fold_in(key, seed), number))(jnp.arange(n))

    found = jax.vmap(of_one)(keys)
    return found.reshape(-1, *found.shape[2:])


def _at_least(logits: jax.Array, least: jax.Array) -> jax.Array:
    return jnp.where(logits < least, -jnp.inf, logits)


def _least_of_nucleus(logits: jax.Array, topp: float) -> jax.Array:
    """Returns the least logit of the most probable ids that reach the probability, `[R, 1]`."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    return jnp.min(jnp.where(before < topp, ordered, jnp.inf), axis=-1, keepdims=True)


def _ids_of(problem: Problem, labels: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each label with EOS, then 0 up to T."""
    is_list = isinstance(labels, list | tuple) and len(labels) > 0
    if not is_list or not all(isinstance(label, str) and label.strip() for label in labels):
        raise InputError(
            f"decoding.rank_classification.labels is {labels!r}, expected a list of texts such as "
            "['yes', 'no']; set RANK_LABELS"
        )
    if problem.encode is None:
        raise InputError("decoding.rank_classification needs a vocabulary to encode its labels")
    rows: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = (*problem.encode(label), problem.eos_id)
        if ids in rows:
            raise InputError(
                f"the labels {rows[ids]!r} and {label!r} of RANK_LABELS have the same ids; give "
                "different labels"
            )
        if len(ids) > problem.max_length:
            raise InputError(
                f"the label {label!r} of RANK_LABELS has {len(ids)} ids with EOS, and "
                f"TASK_FEATURE_LENGTHS['targets'] is {problem.max_length}; raise it, or shorten "
                "the label"
            )
        rows[ids] = label
    return [[*ids, *[0] * (problem.max_length - len(ids))] for ids in rows]


_AT_LEAST_0 = "a number of at least 0"
_AT_LEAST_1 = "a whole number of at least 1"


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any, least: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= least


def _check(function: str, parameter: str, value: object, accepted: bool, expected: str) -> None:
    if not accepted:
        raise InputError(f"decoding.{function}.{parameter} is {value!r}, expected {expected}")
