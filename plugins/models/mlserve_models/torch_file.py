"""Read a PyTorch state dict from a file of `torch.save` before version 1.6, without torch.

The format, as PyTorch's own loader reads it: five pickles in a row (a magic number, the protocol
number, the machine's sizes, the state dict, the storages' keys), then each storage as its number of
elements (int64) and its elements, little-endian. The unpickler builds only tensors and plain
containers, so a file cannot run code. torch itself would be an install of 200 MB or more, and
tinygrad's `torch_load` takes 44 s to convert this project's one file to numpy.
"""

from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mlserve.errors import ExportError, reason_of

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MOST_OF_FILE = 8
"""The most bytes of all tensors, in file sizes: tensors may share storages, as tied weights do,
but not many times over."""

Array = np.ndarray[Any, Any]


def read_state_dict(path: Path) -> dict[str, Array]:
    """Return the tensors in `path` by name, as numpy arrays of their own shape and type.

    Raises ExportError when the file cannot be read or does not have that format.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # an invalid pickle can fail in any way
        raise ExportError(
            f"{path} is not a PyTorch state dict in the format before PyTorch 1.6: "
            f"{reason_of(error)}",
            hint="write it with torch.save(model.state_dict(), FILE, "
            "_use_new_zipfile_serialization=False)",
        ) from error


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _View:
    """A tensor: a window of elements in a storage, with its strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Return the size of all its elements in bytes."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def of(self, storages: Mapping[str, Array]) -> Array:
        elements = storages[self.storage.key]
        reach = sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        if min((*self.shape, *self.strides, self.offset), default=0) < 0:
            raise ValueError("a tensor has a negative size, stride or offset")
        if 0 not in self.shape and self.offset + reach >= elements.size:
            raise ValueError("a tensor reaches beyond its storage")
        if math.prod(self.shape) > elements.size:
            raise ValueError("a tensor has more elements than its storage")
        steps = tuple(step * elements.itemsize for step in self.strides)
        window = np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, steps)
        return window.copy()


class _Unpickler(pickle.Unpickler):
    """Builds state dicts only: any other name in the file is an error."""

    storage_types: ClassVar[Mapping[str, str]] = {
        "DoubleStorage": "<f8",
        "FloatStorage": "<f4",
        "HalfStorage": "<f2",
        "LongStorage": "<i8",
        "IntStorage": "<i4",
        "ByteStorage": "|u1",
        "BoolStorage": "|b1",
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in self.storage_types:
            return np.dtype(self.storage_types[name])
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}, which does not belong in a state dict"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(key, dtype)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _View:
    return _View(storage, offset, shape, strides)


def _read(file: BufferedReader) -> dict[str, Array]:
    if (_Unpickler(file).load(), _Unpickler(file).load()) != (_MAGIC, _PROTOCOL):
        raise ValueError("the magic number or the protocol number is wrong")
    _Unpickler(file).load()
    views = _Unpickler(file).load()
    types = {view.storage.key: view.storage.dtype for view in views.values()}
    storages = {key: _read_storage(file, types[key]) for key in _Unpickler(file).load()}
    size = os.fstat(file.fileno()).st_size
    if sum(view.bytes for view in views.values()) > _MOST_OF_FILE * size:
        raise ValueError("its tensors are much larger than the file")
    return {name: view.of(storages) for name, view in views.items()}


def _read_storage(file: BufferedReader, dtype: np.dtype[Any]) -> Array:
    count = int.from_bytes(file.read(8), "little")
    if count * dtype.itemsize > os.fstat(file.fileno()).st_size:
        raise ValueError("a storage is larger than the file")
    data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype, count)
