"""The same training step in PEFT, for `train_step.py --peer`; needs torch, transformers and peft.

In an environment of its own, since none of these is a dependency of this project:

    python -m venv peft-env && peft-env/bin/pip install torch transformers peft
    python benchmarks/train_step.py --peer 'peft-env/bin/python benchmarks/peft_train_step.py'
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path


def since_start() -> float:
    """Returns the seconds since this process was started, its imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Takes steps of a T5 1.1 small and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    arguments = parser.parse_args()

    import torch
    from peft import PromptTuningConfig, get_peft_model
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.optimization import Adafactor

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_decoder_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        dropout_rate=0.1,
    )
    model = get_peft_model(
        T5ForConditionalGeneration(config),
        # One submodule: by default PEFT doubles the prompt of an encoder-decoder model.
        PromptTuningConfig(
            task_type="SEQ_2_SEQ_LM", num_virtual_tokens=100, num_transformer_submodules=1
        ),
    )
    model.train()
    optimizer = Adafactor(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=0.3,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        weight_decay=1e-5,
    )
    seconds = []
    startup = loss = 0.0
    for step in range(arguments.warmup + arguments.steps):
        inputs = torch.randint(3, 32000, (8, 128))
        targets = torch.randint(3, 32000, (8, 8))
        begin = time.perf_counter()
        result = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=targets)
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = result.loss.item()
        if step == 0:
            startup = since_start()
        if step >= arguments.warmup:
            seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        model.save_pretrained(folder)
        save = time.perf_counter() - begin
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(
        json.dumps(
            {
                "impl": "peft",
                "step_s": [round(value, 4) for value in seconds],
                "startup_s": round(startup, 2),
                "peak_rss_mb": round(peak, 1),
                "save_s": round(save, 4),
                "save_bytes": size,
                "loss": round(loss, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
