"""T5 models as Hugging Face Transformers saves them: a directory of `config.json` and safetensors.

These are T5 1.0, and T5 1.1 with its LM-adapted, Flan and multilingual versions. Names and kernels
become Flaxformer's: kernels `[out, in]` and position biases `[buckets, heads]` are transposed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_tuning_core.errors import InputError, nearest
from prompt_tuning_files import embeddings
from prompt_tuning_files.formats import Variable
from prompt_tuning_files.npy_header import FLOATING
from prompt_tuning_files.safetensors_header import read_tensor
from prompt_tuning_format_huggingface import t5_config, t5_names, tensor_files
from prompt_tuning_format_huggingface.tensor_files import FileTensor

if TYPE_CHECKING:
    import numpy as np


class HuggingFaceT5Format:
    """The format `huggingface_t5`; see `formats.ModelFormat`."""

    def recognizes_model(self, path: str) -> bool:
        """See `formats.ModelFormat`: a directory with a `config.json`, or an index of shards.

        Also recognizes a file of such a model without its `config.json`, or a pickled one, so that
        the error can name the problem.
        """
        folder = Path(path)
        if folder.is_dir():
            signs = (t5_config.FILE_NAME, tensor_files.INDEX)
            if any((folder / sign).exists() for sign in signs):
                return True
            single = folder / tensor_files.SINGLE
            if single.exists():
                return _is_transformers_file(single)
            return any(folder.glob(tensor_files.PYTORCH))
        return _is_transformers_file(folder)

    def open_model(self, path: str) -> HuggingFaceT5:
        """See `formats.ModelFormat`."""
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(
                f"model {path}: a file of a Hugging Face model; give the directory that holds it "
                f"with its {t5_config.FILE_NAME}: {folder.parent}"
            )
        if not (folder / t5_config.FILE_NAME).exists():
            raise InputError(
                f"model {folder}: holds files of a Hugging Face model, but no "
                f"{t5_config.FILE_NAME}; copy that, too"
            )
        return HuggingFaceT5(folder)


class HuggingFaceT5:
    """A T5 whose headers have been read; see `formats.DescribedModelFile`.

    Args:
      folder: The directory.

    Raises:
      InputError: If a file is missing or damaged, or if the tensors differ from the T5 that
        `config.json` describes.
    """

    step = 0

    def __init__(self, folder: Path) -> None:
        self._name = f"model {folder}"
        config = t5_config.read_config(folder)
        tensors = tensor_files.find_tensors(folder)
        self._copies = [name for name in t5_names.TABLE_COPIES if name in tensors]
        has_output_layer = t5_names.LOGITS in tensors
        if config.scaled_logits and has_output_layer:
            self._copies.append(t5_names.LOGITS)
            has_output_layer = False
        if t5_names.TABLE not in tensors and self._copies:
            # The file may use any name of the table.
            tensors[t5_names.TABLE] = tensors[self._copies[0]]
        self._sources = t5_names.sources(config, has_output_layer)
        self._tensors = tensors
        # The header is read once; rows may be read many times.
        self._table = functools.cache(
            lambda tensor: embeddings.safetensors_load(tensors[tensor].file, tensor)
        )
        self._check_tensors()
        self.network: Mapping[str, Any] = {"relpos_max_distance": config.max_distance}
        self.variables: Mapping[str, Variable] = {
            name: Variable(
                source.shape[::-1] if source.transposed else source.shape,
                # `_check_tensors` has refused tensors whose dtype is None.
                str(tensors[source.tensor].tensor.dtype.name),  # type: ignore[union-attr]
            )
            for name, source in self._sources.items()
        }

    def read(self, name: str) -> np.ndarray:
        """See `formats.ModelFile`."""
        import numpy as np

        source = self._sources[name]
        array = self._read(source.tensor)
        if source.tensor == t5_names.TABLE:
            for copy in self._copies:
                self._check_copy(copy, array, self._read(copy))
        return np.ascontiguousarray(array.T) if source.transposed else array

    def rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """See `formats.ModelFile`; reads a kernel whole, since it is stored by columns."""
        import numpy as np

        source = self._sources[name]
        if source.transposed:
            return self.read(name)[ids].astype(np.float32)
        rows = self._rows(source.tensor, ids)
        if source.tensor == t5_names.TABLE:
            for copy in self._copies:
                self._check_copy(copy, rows, self._rows(copy, ids))
        return rows

    def _read(self, tensor: str) -> np.ndarray:
        found = self._tensors[tensor]
        return read_tensor(found.file, found.tensor, f"model {found.file}")

    def _rows(self, tensor: str, ids: np.ndarray) -> np.ndarray:
        return self._table(tensor).rows(ids)

    def _check_copy(self, copy: str, table: np.ndarray, found: np.ndarray) -> None:
        if table.tobytes() != found.tobytes():
            raise InputError(
                f"{self._name}: {copy} differs from {t5_names.TABLE}, and by {t5_config.FILE_NAME} "
                "they are one table; is it the file of this model?"
            )

    def _check_tensors(self) -> None:
        """Checks that the tensors are the model's tensors, with its shapes and floating dtypes."""
        shapes = {source.tensor: source.shape for source in self._sources.values()}
        shapes |= dict.fromkeys(self._copies, shapes[t5_names.TABLE])
        missing = [name for name in shapes if name not in self._tensors]
        if missing:
            raise InputError(
                f"{self._name}: {len(missing)} of the tensors that {t5_config.FILE_NAME} asks for "
                f"are missing, the first is {missing[0]!r}{nearest(missing[0], self._tensors)}"
            )
        for name, shape in shapes.items():
            self._check_tensor(name, self._tensors[name], shape)
        for name in self._tensors:
            if name not in shapes and name not in t5_names.UNUSED:
                raise InputError(
                    f"{self._name}: holds {name!r}, which the T5 that {t5_config.FILE_NAME} "
                    "describes does not have; are these files of one model?"
                )

    def _check_tensor(self, name: str, found: FileTensor, shape: tuple[int, ...]) -> None:
        tensor = found.tensor
        if tensor.shape != shape:
            raise InputError(
                f"{self._name}: {name!r} has the shape {tensor.shape}, and by "
                f"{t5_config.FILE_NAME} it has {shape}; are these files of one model?"
            )
        if tensor.dtype is None:
            raise InputError(
                f"{self._name}: {name!r} has the dtype {tensor.code}, expected one of "
                f"{', '.join(FLOATING)}"
            )


def _is_transformers_file(file: Path) -> bool:
    """Checks that a file has tensors with the names of Transformers' modules, or is pickled."""
    if file.is_file() and file.match(tensor_files.PYTORCH):
        return True
    if not file.is_file() or file.suffix != ".safetensors":
        return False
    try:
        return any(name.endswith(".weight") for name in tensor_files.read_header(file))
    except InputError:
        return False
