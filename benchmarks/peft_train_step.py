"""The same training step in PEFT, for `train_step.py --peer` and `dtypes.py --peer`.

`peft_t5.py` names its requirements.

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


class Training:
    """A prompt of PEFT in training, with the paper's Adafactor.

    Args:
      arguments: The arguments of this process.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from transformers.optimization import Adafactor

        self.model, self.device = peft_t5.load(arguments)
        self.model.train()
        self._optimizer = Adafactor(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=0.3,
            scale_parameter=False,
            relative_step=False,
            warmup_init=False,
            weight_decay=1e-5,
        )
        self._input_shape = (arguments.batch, arguments.input_length)
        self._target_shape = (arguments.batch, arguments.target_length)
        self.loss = 0.0

    def step(self) -> float:
        """Takes a step on random ids and returns its seconds."""
        import torch

        inputs = torch.randint(shapes.FIRST_ID, shapes.LAST_ID, self._input_shape)
        targets = torch.randint(shapes.FIRST_ID, shapes.LAST_ID, self._target_shape)
        begin = time.perf_counter()
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        result = self.model(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=targets
        )
        result.loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.loss = result.loss.item()
        return time.perf_counter() - begin

    def save(self) -> dict[str, float]:
        """Saves the prompt once; returns the seconds and the bytes."""
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            self.model.save_pretrained(folder)
            seconds = time.perf_counter() - begin
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
        return {"save_s": round(seconds, 4), "save_bytes": size}


def import_all() -> None:
    """Imports the modules that a training script imports, before anything is built."""
    # Only for the measured time: functions that use these modules import them again.
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import T5ForConditionalGeneration  # noqa: F401


def main() -> None:
    """Takes steps and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    shapes.add_batch_flags(parser)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help="take a step for each line on stdin")
    peft_t5.add_weights_flag(parser)
    arguments = parser.parse_args()
    if arguments.make_weights:
        peft_t5.make_weights(arguments)
        return

    import_all()
    imported = processes.since_start()
    training = Training(arguments)
    loaded = processes.since_start()
    if arguments.serve:
        processes.answer({"step": training.step, "peak_rss_mb": processes.peak_rss_mb})
        return
    training.step()
    startup = processes.since_start()
    seconds = [training.step() for _ in range(1, arguments.warmup + arguments.steps)]
    figures = {
        "impl": "peft",
        "step_s": [round(value, 4) for value in seconds[arguments.warmup - 1 :]],
        "imported_s": round(imported, 2),
        "loaded_s": round(loaded, 2),
        "startup_s": round(startup, 2),
        "peak_rss_mb": processes.peak_rss_mb(),
        **training.save(),
        "loss": round(training.loss, 4),
        **peft_t5.facts(training.device),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
