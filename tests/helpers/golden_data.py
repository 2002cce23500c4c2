"""The golden data of all tests; what those of several distributions read is kept once, here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SHARED = Path(__file__).parents[1] / "golden"
"""The data of several distributions; its README says what it is."""

VOCABULARY = SHARED / "seqio_test_sentencepiece.model"
"""A vocabulary of 26 pieces."""


def read(name: str, *folders: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of `NAME.npz`.

    Args:
      name: The file's name without its ending.
      *folders: Where to look before `SHARED`.

    Returns:
      The arrays by name.

    Raises:
      FileNotFoundError: If no folder has the file.
    """
    tried = [folder / f"{name}.npz" for folder in (*folders, SHARED)]
    for path in tried:
        if path.is_file():
            with np.load(path) as arrays:
                return dict(arrays)
    raise FileNotFoundError(f"none of {', '.join(map(str, tried))} exists")
