"""`model show` and `extract-variable`, on a model of a stranger's form."""

from __future__ import annotations

import numpy as np
import pytest

# Arrays in a .npz, which no format of ours reads.
FORMAT = """\
import os
import numpy as np
from prompt_tuning_files.formats import Variable

class Npz:
    def recognizes_model(self, path):
        return path.endswith(".npz")

    def open_model(self, path):
        return Model(path)

class Model:
    step = 1100000

    def __init__(self, path):
        self.arrays = np.load(path)
        self.variables = {
            name: Variable(self.arrays[name].shape, self.arrays[name].dtype.name)
            for name in self.arrays.files
        }

    def read(self, name):
        return self.arrays[name]
"""


@pytest.fixture
def model(site):
    """A T5 of width 4, whose values are those that float16 can hold, but for one."""
    site.distribution("npz", {"formats": {"npz": "npz_format:Npz"}}, {"npz_format.py": FORMAT})
    rng = np.random.default_rng(0)
    shapes = {
        "token_embedder/embedding": (9, 4),
        "encoder/relpos_bias/rel_embedding": (2, 32),
        "encoder/layers_0/attention/query/kernel": (4, 6),
        "encoder/layers_1/attention/query/kernel": (4, 6),
        "encoder/layers_0/mlp/wi_0/kernel": (4, 8),
        "encoder/layers_0/mlp/wi_1/kernel": (4, 8),
        "decoder/layers_0/self_attention/query/kernel": (4, 6),
        "decoder/logits_dense/kernel": (4, 9),
    }
    arrays = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    arrays["token_embedder/embedding"] = arrays["token_embedder/embedding"].astype(np.float32)
    arrays["token_embedder/embedding"][0, 0] = 1e9
    np.savez(site.cwd / "model.npz", **arrays)
    return arrays


def test_sizes_come_from_the_shapes(site, model):
    process = site.command("model", "show", "model.npz")
    assert process.returncode == 0, process.stderr
    shown = dict(line.split("  ", maxsplit=1) for line in process.stdout.splitlines())
    assert {name: value.strip() for name, value in shown.items()} == {
        "model": "model.npz",
        "form": "npz",
        "step": "1,100,000",
        "parameters": "272 in 8 variables",
        "bytes": "616",
        "dtype": "float16 (236 parameters), float32 (36 parameters)",
        "width": "4",
        "encoder layers": "2",
        "decoder layers": "1",
        "heads": "2 of width 3",
        "MLP width": "8, gated",
        "vocabulary": "9 rows",
    }


def test_a_variable_is_extracted_in_float32(site, model, main):
    listing = main("extract-variable", "model.npz")[1]
    assert "encoder/layers_1/attention/query/kernel" in listing
    assert "(4, 6)" in listing
    # As in the reference's script, "target/" may stand in front.
    name = "encoder/layers_0/mlp/wi_0/kernel"
    process = site.command("extract-variable", "model.npz", f"target/{name}", "out.npy")
    assert process.stdout == f"wrote out.npy: {name}, float32 (4, 8)\n", process.stderr
    extracted = np.load(site.cwd / "out.npy")
    assert extracted.dtype == np.float32
    np.testing.assert_array_equal(extracted, model[name])
    _, output, _ = main(
        "extract-variable", "model.npz", "encoder/relpos_bias/rel_embedding", "out.npy",
        "--dtype=float64",
    )  # fmt: skip
    assert output.startswith("replaced out.npy: ")
    assert np.load(site.cwd / "out.npy").dtype == np.float64
    assert [path.name for path in site.cwd.glob("*out*")] == ["out.npy"]


def test_what_cannot_be_extracted_is_told(site, model, main):
    for arguments, expected in [
        (["token_embeder/embedding"], "did you mean 'token_embedder/embedding'?"),
        (["nothing_like_it"], "without a variable, the command lists all 8"),
        (["token_embedder/embedding", "out.npz"], "expected the name of a file that ends in .npy"),
        (["token_embedder/embedding", "model.npz/out.npy"], "cannot be written: "),
        (
            ["token_embedder/embedding", "out.npy", "--dtype=float16"],
            "has values beyond the range of float16",
        ),
    ]:
        code, output, error = main("extract-variable", "model.npz", *arguments)
        assert (code, output, error.count("\n")) == (2, "", 1), arguments
        assert expected in error
        assert [path.name for path in site.cwd.iterdir()] == ["model.npz"]


def test_models_that_have_a_name_are_listed(site):
    process = site.command("model", "list")
    assert process.returncode == 0, process.stderr
    heading, demo, row, *_ = process.stdout.splitlines()
    assert heading.split()[:3] == ["NAME", "FROM", "PARAMETERS"]
    assert demo.split()[:3] == ["demo", "prompt-tuning-demo", "1,607,040"]
    assert row.split()[:3] == ["t5_1_1_lm100k_small", "prompt-tuning-catalog-google", "76,961,152"]
    assert process.stdout.count("vocabulary: gs://t5-data/vocabs/") == 1
