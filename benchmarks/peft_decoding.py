"""The same decoding in PEFT, for `decoding.py --peer`; see `peft_t5.py` for what it needs.

python benchmarks/decoding.py --peer 'peft-env/bin/python benchmarks/peft_decoding.py'
"""

from __future__ import annotations

import argparse
import json

import decoding
import peft_t5
import shapes


def main() -> None:
    """Decodes and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    shapes.add_shape_flags(parser)
    decoding.add_decoding_flags(parser)
    peft_t5.add_weights_flag(parser)
    arguments = parser.parse_args()
    if arguments.make_weights:
        peft_t5.make_weights(arguments)
        return

    import torch

    model, device = peft_t5.load(arguments)
    model.eval()
    # No sequence ends before the last token, so these decide nothing.
    beam_settings = {"length_penalty": 1.0, "early_stopping": True} if arguments.beams > 1 else {}
    found = {}
    for batch in map(int, arguments.batches.split(",")):
        shape = (batch, arguments.input_length)

        def decode(length: int, shape: tuple[int, int] = shape) -> int:
            ids = torch.randint(shapes.FIRST_ID, shapes.LAST_ID, shape).to(device)
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=arguments.beams,
                **beam_settings,
                min_new_tokens=length,
                max_new_tokens=length,
            ).cpu()
            # The first id only starts the decoder.
            return made[:, 1:].numel()

        with torch.inference_mode():
            found[batch] = decoding.timed(decode, arguments)
    print(json.dumps({"impl": "peft", "batches": found, **peft_t5.facts(device)}))


if __name__ == "__main__":
    main()
