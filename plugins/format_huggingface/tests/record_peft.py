"""Has PEFT train and save the adapters of tests/golden/peft, and writes down what they do.

`python record_peft.py` in an environment with PEFT, Transformers and PyTorch. The README of
tests/golden says what the files are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

GOLDEN = Path(__file__).parent / "golden"
STEPS = 20
COMMON = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 3}
# None of them names num_transformer_submodules, as most people's adapters don't.
ADAPTERS = {
    "default": peft.PromptTuningConfig(**COMMON),
    "p_tuning": peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=8),
    "with_embeddings": peft.PromptTuningConfig(**COMMON),
}


def base() -> transformers.T5ForConditionalGeneration:
    """Reads the tiny model by a name that is no path of this machine."""
    return transformers.T5ForConditionalGeneration.from_pretrained("model").eval()


def batch() -> dict[str, torch.Tensor]:
    """Returns the inputs of hf_t5.npz, as Hugging Face's models take them."""
    with np.load("hf_t5.npz") as arrays:
        tokens = torch.from_numpy(arrays["encoder_input_tokens"]).long()
        targets = torch.from_numpy(arrays["decoder_target_tokens"]).long()
    labels = targets.masked_fill(targets == 0, -100)
    return {"input_ids": tokens, "attention_mask": (tokens > 0).long(), "labels": labels}


def record(name: str, config: peft.PeftConfig) -> dict[str, np.ndarray]:
    """Trains and saves an adapter, loads it again, and returns PEFT's results with it."""
    torch.manual_seed(list(ADAPTERS).index(name))
    model = peft.get_peft_model(base(), config)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        optimizer.step()
    folder = Path("peft", name)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=name == "with_embeddings")
    (folder / "README.md").unlink()  # A model card.

    model = peft.PeftModel.from_pretrained(base(), folder).eval()
    seen: list[torch.Tensor] = []
    watch = model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    inputs = batch()
    with torch.no_grad():
        logits = model(**inputs).logits
        watch.remove()
        tokens = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=8, num_beams=1, do_sample=False,
        )  # fmt: skip
    in_front = seen[0].shape[1] - inputs["input_ids"].shape[1]
    return {
        f"{name}_prompt": seen[0][0, :in_front].numpy(),
        f"{name}_logits": logits.numpy(),
        f"{name}_greedy_tokens": tokens.numpy(),
    }


def main() -> None:
    """Records all adapters."""
    os.chdir(GOLDEN)
    arrays: dict[str, np.ndarray] = {}
    for name, config in ADAPTERS.items():
        arrays |= record(name, config)
    np.savez_compressed("peft.npz", **arrays)


if __name__ == "__main__":
    main()
