"""The same training step in PEFT, for `train_step.py --peer` and `dtypes.py --peer`.

What it needs, `peft_t5.py` says.

    python benchmarks/train_step.py --peer 'peft-env/bin/python benchmarks/peft_train_step.py'
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import peft_t5
import processes
import shapes


def main() -> None:
    """Takes steps and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help="take steps when asked for on stdin")
    peft_t5.add_weights_flag(parser)
    arguments = parser.parse_args()
    if arguments.make_weights:
        peft_t5.make_weights(arguments)
        return

    # What a training script imports, before anything is built.
    import torch
    from peft import get_peft_model  # noqa: F401
    from transformers import T5ForConditionalGeneration  # noqa: F401
    from transformers.optimization import Adafactor

    imported = processes.since_start()
    model, device = peft_t5.load(arguments)
    model.train()
    loaded = processes.since_start()
    optimizer = Adafactor(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=0.3,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        weight_decay=1e-5,
    )
    ids = (shapes.FIRST_ID, shapes.LAST_ID)
    loss = 0.0

    def take_step() -> float:
        """Takes a step and returns how many seconds it took."""
        nonlocal loss
        inputs = torch.randint(*ids, (arguments.batch, arguments.input_length))
        targets = torch.randint(*ids, (arguments.batch, arguments.target_length))
        begin = time.perf_counter()
        inputs, targets = inputs.to(device), targets.to(device)
        result = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=targets)
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = result.loss.item()
        return time.perf_counter() - begin

    if arguments.serve:
        processes.answer({"step": take_step, "peak_rss_mb": processes.peak_rss_mb})
        return
    take_step()
    startup = processes.since_start()
    seconds = [take_step() for _ in range(1, arguments.warmup + arguments.steps)]
    seconds = seconds[arguments.warmup - 1 :]
    peak = processes.peak_rss_mb()
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
                "imported_s": round(imported, 2),
                "loaded_s": round(loaded, 2),
                "startup_s": round(startup, 2),
                "peak_rss_mb": peak,
                "save_s": round(save, 4),
                "save_bytes": size,
                "loss": round(loss, 4),
                **peft_t5.facts(device),
            }
        )
    )


if __name__ == "__main__":
    main()
