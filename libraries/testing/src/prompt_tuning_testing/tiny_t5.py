"""A tiny frozen T5 with random weights, its vocabulary and a task: it trains in seconds."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, LAYERS, MLP_WIDTH, VOCABULARY_SIZE = 32, 4, 2, 64, 64

_ROWS = [
    {"text": "this is a test", "label": "yes"},
    {"text": "that was no test", "label": "no"},
    {"text": "this was one", "label": "yes"},
    {"text": "no that is not", "label": "no"},
]

_TASK = """\
from __gin__ import dynamic_registration
import prompt_tuning_tasks as tasks

tiny/tasks.TextTask:
  splits = {'train': 'rows.jsonl', 'validation': 'rows.jsonl', 'test': 'rows.jsonl'}
  inputs = '{text}'
  targets = '{label}'
  metrics = ['exact_match']
"""


@dataclasses.dataclass(frozen=True)
class TinyT5:
    """The files of a model, a vocabulary and a task in one folder.

    Attributes:
      folder: The folder: `model/model.safetensors`, `vocabulary.model`, `task.gin`, `rows.jsonl`.
    """

    folder: Path

    def flags(self, **macros: object) -> list[str]:
        """Returns the flags of `prompt-tuning train` in the folder, with these macros changed.

        By default, the run takes 4 steps with 5 random positions, and writes to `run`.
        """
        files = ("prompts/from_random_uniform.gin", "task.gin", "runs/prompt_finetune.gin")
        values = {
            "INITIAL_CHECKPOINT_PATH": "model", "MODEL_DIR": "run", "PROMPT_LENGTH": 5,
            "TRAIN_STEPS": 4, "EVAL_PERIOD": 4, "SAVE_PERIOD": 4, "RANDOM_SEED": 0,
        }  # fmt: skip
        return self._flags(files, {**values, **macros})

    def eval_flags(self, **macros: object) -> list[str]:
        """Returns the flags of `prompt-tuning eval` for the run in `run`; it writes to `eval`."""
        values = {
            "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run", "EVAL_OUTPUT_DIR": "eval",
        }  # fmt: skip
        return self._flags(("task.gin", "runs/prompt_eval.gin"), {**values, **macros})

    def infer_flags(self, **macros: object) -> list[str]:
        """Returns the flags of `prompt-tuning infer` for the run in `run`; it writes to `infer`."""
        values = {
            "CHECKPOINT_PATH": "model", "PROMPT_FILE": "run", "INFER_OUTPUT_DIR": "infer",
            "INFER_INPUT_FILE": "rows.jsonl",
        }  # fmt: skip
        return self._flags(("task.gin", "runs/prompt_infer.gin"), {**values, **macros})

    def _flags(self, files: Sequence[str], values: Mapping[str, object]) -> list[str]:
        sizes = {
            "NUM_HEADS": HEADS, "NUM_ENCODER_LAYERS": LAYERS, "NUM_DECODER_LAYERS": LAYERS,
            "HEAD_DIM": WIDTH // HEADS, "EMBED_DIM": WIDTH, "MLP_DIM": MLP_WIDTH,
            "NUM_EMBEDDINGS": VOCABULARY_SIZE, "VOCABULARY_FILE": "vocabulary.model",
            "VOCABULARY_EXTRA_IDS": 0, "MIXTURE_OR_TASK_NAME": "tiny", "BATCH_SIZE": 2,
            "TASK_FEATURE_LENGTHS": {"inputs": 20, "targets": 6},
        }  # fmt: skip
        bindings = [f"--gin.{name}={value!r}" for name, value in {**sizes, **values}.items()]
        named = ("models/t5_1_1_small_prompt.gin", *files)
        return [*(f"--gin_file={file}" for file in named), *bindings]


def write(folder: Path) -> TinyT5:
    """Writes the files to a folder.

    Raises:
      ImportError: If safetensors or sentencepiece, which write the model and the vocabulary, are
        not installed.
    """
    import safetensors.numpy

    (folder / "model").mkdir()
    safetensors.numpy.save_file(dict(_parameters()), folder / "model" / "model.safetensors")
    (folder / "vocabulary.model").write_bytes(_vocabulary())
    (folder / "task.gin").write_text(_TASK)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
    return TinyT5(folder)


def _parameters() -> Iterator[tuple[str, np.ndarray]]:
    """Yields random parameters by the names that T5X's checkpoints have."""
    random = np.random.default_rng(0)

    def matrix(name: str, *shape: int) -> tuple[str, np.ndarray]:
        return name, (random.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)

    def attention(name: str) -> Iterator[tuple[str, np.ndarray]]:
        for part in ("query", "key", "value", "out"):
            yield matrix(f"{name}/{part}/kernel", WIDTH, WIDTH)

    def scale(name: str) -> tuple[str, np.ndarray]:
        return f"{name}/scale", np.ones(WIDTH, np.float32)

    sides: Mapping[str, Mapping[str, str]] = {
        "encoder": {"attention": "pre_attention_layer_norm"},
        "decoder": {
            "self_attention": "pre_self_attention_layer_norm",
            "encoder_decoder_attention": "pre_cross_attention_layer_norm",
        },
    }
    for side, attentions in sides.items():
        for number in range(LAYERS):
            layer = f"{side}/layers_{number}"
            for name, norm in attentions.items():
                yield from attention(f"{layer}/{name}")
                yield scale(f"{layer}/{norm}")
            yield scale(f"{layer}/pre_mlp_layer_norm")
            yield matrix(f"{layer}/mlp/wi_0/kernel", WIDTH, MLP_WIDTH)
            yield matrix(f"{layer}/mlp/wi_1/kernel", WIDTH, MLP_WIDTH)
            yield matrix(f"{layer}/mlp/wo/kernel", MLP_WIDTH, WIDTH)
        yield matrix(f"{side}/relpos_bias/rel_embedding", HEADS, 32)
        yield scale(f"{side}/{side}_norm")
    yield matrix("token_embedder/embedding", VOCABULARY_SIZE, WIDTH)
    yield matrix("decoder/logits_dense/kernel", WIDTH, VOCABULARY_SIZE)


def _vocabulary() -> bytes:
    """Returns a SentencePiece model with a piece for each letter, and some words."""
    protocol: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    model = protocol.ModelProto()
    piece = model.SentencePiece
    letters = [chr(ord("a") + number) for number in range(26)]
    words = ["▁yes", "▁no", "▁this", "▁that", "▁is", "▁was", "▁a", "▁test"]
    for text, kind in (("<pad>", piece.CONTROL), ("</s>", piece.CONTROL), ("<unk>", piece.UNKNOWN)):
        model.pieces.add(piece=text, score=0.0, type=kind)
    for text in ["▁", *letters, *words]:
        model.pieces.add(piece=text, score=-10.0 / len(text))
    while len(model.pieces) < VOCABULARY_SIZE:
        model.pieces.add(piece=f"▁word{len(model.pieces)}", score=-20.0)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = trainer.UNIGRAM
    trainer.vocab_size = VOCABULARY_SIZE
    trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 0, 1, 2, -1
    trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = "<pad>", "</s>", "<unk>"
    normalizer.name, normalizer.add_dummy_prefix = "identity", True
    return bytes(model.SerializeToString())
