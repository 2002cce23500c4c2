"""The golden checkpoints, unpacked, and a writer of T5X checkpoints in other layouts."""

from __future__ import annotations

import tarfile
from pathlib import Path

import golden_data
import msgpack
import pytest
import tensorstore as ts

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def parameters():
    """The tiny model's parameters, without the prompt."""
    return golden_data.read("tiny_params")


@pytest.fixture(scope="session")
def prompt():
    """The prompt that the prompted checkpoints hold."""
    return golden_data.read("tiny_prompt")["encoder/prompt/prompt/prompt"]


@pytest.fixture
def unpack(tmp_path):
    """A function that unpacks a golden checkpoint and returns where; a test may damage it."""

    def unpack(name):
        with tarfile.open(GOLDEN / f"{name}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path / name

    return unpack


@pytest.fixture
def write_t5x():
    """A function that writes arrays as a T5X checkpoint, in chunks of any shape."""

    def write(directory, arrays, chunks=None, step=0):
        target = {}
        for name, array in arrays.items():
            spec = {
                "driver": "zarr",
                "dtype": array.dtype.name,
                "kvstore": {"driver": "file", "path": f"target.{name.replace('/', '.')}/"},
                "metadata": {
                    "shape": list(array.shape),
                    "chunks": list((chunks or {}).get(name, array.shape)),
                    "compressor": {"id": "gzip"},
                },
            }
            kvstore = {"driver": "file", "path": f"{directory}/{spec['kvstore']['path']}"}
            ts.open({**spec, "kvstore": kvstore}, create=True).result().write(array).result()
            *parents, leaf = name.split("/")
            parent = target
            for key in parents:
                parent = parent.setdefault(key, {})
            parent[leaf] = spec
        index = {"version": 3, "optimizer": {"target": target, "state": {"step": step}}}
        (directory / "checkpoint").write_bytes(msgpack.packb(index))
        return directory

    return write
