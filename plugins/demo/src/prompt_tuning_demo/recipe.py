"""Every choice that the demo's base depends on, from the vocabulary to the optimizer."""

from __future__ import annotations

import dataclasses

EXTRA_IDS = 100


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The recipe of the base's pretraining.

    Attributes:
      pieces: Number of pieces of the vocabulary, including the three special ones. The model's
        embedding table also has a row for each of T5's 100 extra ids.
      emb_dim: Width of the model.
      num_heads: Attention heads.
      head_dim: Width of a head.
      mlp_dim: Hidden width of the feed-forward blocks.
      num_encoder_layers: Layers of the encoder.
      num_decoder_layers: Layers of the decoder.
      embedding_std: Standard deviation of the initial embeddings. T5's 1.0 is learned too slowly:
        AdamW moves every number by about the learning rate.
      steps: Steps of the optimizer.
      start_steps: Steps at the beginning without dropout and bare examples. With both from the
        first step, the model answered at random for 2,000 steps. Without them, learning began after
        500.
      dropout_rate: Dropout in the later steps.
      dropped_words: An example's words are dropped with a rate drawn from this interval.
      told_batch: Examples with a text prefix in a step.
      told_lengths: Lengths to which the inputs of these examples are padded. Longer inputs are cut
        at the last length.
      sentiment_share: Share of sentiment among examples with a prefix. In the others, the answer is
        plot or review.
      lexicon_share: Share of single words among the sentiment examples.
      bare_batch: Examples without a prefix in a step.
      bare_length: Length to which the inputs of bare examples are cut or padded.
      bare_target_length: Length to which the targets of bare examples are cut or padded.
      bare_weight: Weight of the loss of bare examples; the loss of examples with a prefix has
        weight 1.
      unrelated_share: Share of bare examples with random pieces in front, so that only a meaningful
        prefix changes the model's answer.
      unrelated_length: The largest number of these random pieces.
      unrelated_answers: Share of answers to other examples among these random pieces.
      continued_share: Share of bare examples that continue a text. In the others, spans are
        corrupted.
      noise_density: Share of the ids that span corruption hides.
      mean_noise_span: Mean length of a hidden span.
      learning_rate: Peak of AdamW's learning rate.
      warmup_steps: Steps of its linear rise; a cosine falls to 2% over the remaining steps.
      weight_decay: AdamW's weight decay.
      clip_norm: Largest global norm of a gradient.
      average: Decay of the running average of the parameters; the average is saved.
      seed: Determines the initial values, the examples and dropout.
    """

    pieces: int = 3996
    emb_dim: int = 128
    num_heads: int = 4
    head_dim: int = 32
    mlp_dim: int = 256
    num_encoder_layers: int = 2
    num_decoder_layers: int = 1
    embedding_std: float = 0.05
    steps: int = 6000
    start_steps: int = 800
    dropout_rate: float = 0.2
    dropped_words: tuple[float, float] = (0.1, 0.5)
    told_batch: int = 48
    told_lengths: tuple[int, ...] = (24, 32, 48)
    sentiment_share: float = 0.85
    lexicon_share: float = 0.15
    bare_batch: int = 16
    bare_length: int = 56
    bare_target_length: int = 16
    bare_weight: float = 0.3
    unrelated_share: float = 0.5
    unrelated_length: int = 24
    unrelated_answers: float = 0.15
    continued_share: float = 0.5
    noise_density: float = 0.15
    mean_noise_span: float = 3.0
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    average: float = 0.999
    seed: int = 0
