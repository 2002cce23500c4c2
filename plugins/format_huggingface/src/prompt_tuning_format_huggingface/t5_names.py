"""Names of a T5's variables: Flaxformer's and Hugging Face's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from prompt_tuning_format_huggingface.t5_config import T5FileConfig

TABLE = "shared.weight"
LOGITS = "lm_head.weight"
# The embedding table again, for the stacks that use it.
TABLE_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Files of T5 1.0 have this tensor, but it is unused: attention to the input has no position biases.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_LOGITS_KERNEL = "decoder/logits_dense/kernel"
_PROJECTIONS = {"query": "q", "key": "k", "value": "v"}


@dataclasses.dataclass(frozen=True)
class Source:
    """The place of a variable in a Hugging Face model.

    Attributes:
      tensor: The tensor's name.
      shape: Its shape there.
      transposed: True if the variable is the transpose of the tensor.
    """

    tensor: str
    shape: tuple[int, ...]
    transposed: bool


def sources(config: T5FileConfig, has_output_layer: bool) -> dict[str, Source]:
    """Returns the source of each variable of a T5, by Flaxformer's name.

    Args:
      config: The model's sizes.
      has_output_layer: True if there is a `lm_head.weight` and the embedding table is another
        tensor. If False, the table is the output layer. In T5 1.0 it is scaled, and Flaxformer has
        no variable for the output layer. In models without scale, the output layer is the table's
        transpose.
    """
    width = config.d_model
    table = (config.vocab_size, width)
    found = {"token_embedder/embedding": Source(TABLE, table, False)}
    found.update(_encoder(config))
    found.update(_decoder(config))
    if has_output_layer:
        found[_LOGITS_KERNEL] = Source(LOGITS, table, True)
    elif not config.scaled_logits:
        found[_LOGITS_KERNEL] = Source(TABLE, table, True)
    return found


def _encoder(config: T5FileConfig) -> Iterator[tuple[str, Source]]:
    for i in range(config.num_layers):
        ours, theirs = f"encoder/layers_{i}", f"encoder.block.{i}.layer"
        yield _norm(f"{ours}/pre_attention_layer_norm", f"{theirs}.0.layer_norm", config)
        yield from _attention(f"{ours}/attention", f"{theirs}.0.SelfAttention", config)
        yield _norm(f"{ours}/pre_mlp_layer_norm", f"{theirs}.1.layer_norm", config)
        yield from _mlp(f"{ours}/mlp", f"{theirs}.1.DenseReluDense", config)
    yield _position_biases("encoder", config)
    yield _norm("encoder/encoder_norm", "encoder.final_layer_norm", config)


def _decoder(config: T5FileConfig) -> Iterator[tuple[str, Source]]:
    for i in range(config.num_decoder_layers):
        ours, theirs = f"decoder/layers_{i}", f"decoder.block.{i}.layer"
        yield _norm(f"{ours}/pre_self_attention_layer_norm", f"{theirs}.0.layer_norm", config)
        yield from _attention(f"{ours}/self_attention", f"{theirs}.0.SelfAttention", config)
        yield _norm(f"{ours}/pre_cross_attention_layer_norm", f"{theirs}.1.layer_norm", config)
        yield from _attention(
            f"{ours}/encoder_decoder_attention", f"{theirs}.1.EncDecAttention", config
        )
        yield _norm(f"{ours}/pre_mlp_layer_norm", f"{theirs}.2.layer_norm", config)
        yield from _mlp(f"{ours}/mlp", f"{theirs}.2.DenseReluDense", config)
    yield _position_biases("decoder", config)
    yield _norm("decoder/decoder_norm", "decoder.final_layer_norm", config)


def _norm(ours: str, theirs: str, config: T5FileConfig) -> tuple[str, Source]:
    return f"{ours}/scale", Source(f"{theirs}.weight", (config.d_model,), False)


def _kernel(ours: str, theirs: str, inputs: int, outputs: int) -> tuple[str, Source]:
    return f"{ours}/kernel", Source(f"{theirs}.weight", (outputs, inputs), True)


def _attention(ours: str, theirs: str, config: T5FileConfig) -> Iterator[tuple[str, Source]]:
    width, joined = config.d_model, config.num_heads * config.d_kv
    for name, letter in _PROJECTIONS.items():
        yield _kernel(f"{ours}/{name}", f"{theirs}.{letter}", width, joined)
    yield _kernel(f"{ours}/out", f"{theirs}.o", joined, width)


def _mlp(ours: str, theirs: str, config: T5FileConfig) -> Iterator[tuple[str, Source]]:
    for name in ("wi_0", "wi_1") if config.gated else ("wi",):
        yield _kernel(f"{ours}/{name}", f"{theirs}.{name}", config.d_model, config.d_ff)
    yield _kernel(f"{ours}/wo", f"{theirs}.wo", config.d_ff, config.d_model)


def _position_biases(stack: str, config: T5FileConfig) -> tuple[str, Source]:
    tensor = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return (
        f"{stack}/relpos_bias/rel_embedding",
        Source(tensor, (config.num_buckets, config.num_heads), True),
    )
