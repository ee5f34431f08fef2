"""Read .npy and .npz files, as tables of rows along the first dimension or as whole arrays."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np  # noqa: TID253  this module is imported for .npy and .npz alone

from mlserve.errors import InferenceFailed, UsageError
from mlserve.rows.rendering import json_value
from mlserve.rows.table import Place, Row, Table
from mlserve.tensors import DType, TensorSpec

Array = np.ndarray[Any, Any]
_NUMBERS = tuple("biufc")
_NO_OBJECTS = "save it with a dtype of numbers or strings: np.save(file, rows.astype(np.float32))"


def load_arrays(file: str, stream: BinaryIO) -> Array | dict[str, Array]:
    """Return the array of a .npy file, or the arrays of a .npz file by name.

    Strings become objects of `str`. Raises UsageError for anything else, and for arrays that only
    pickle can read, which runs code.
    """
    try:
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _plain(file, loaded)
        with loaded:
            return {name: _plain(file, loaded[name]) for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        hint = _NO_OBJECTS if "allow_pickle" in str(error) else "write it with np.save or np.savez"
        raise UsageError(f"{file} cannot be read as an array: {error}", hint=hint) from error


def read_arrays(file: str, arrays: Mapping[str, Array]) -> Table:
    """Return a table with a column for each array; the first dimension is that of the rows.

    Raises UsageError unless all have the same number of rows.
    """
    scalar = next((name for name, array in arrays.items() if array.ndim == 0), None)
    if scalar is not None:
        raise UsageError(
            f"the array {scalar!r} in {file} is a single value, not rows",
            hint=f"to send it as it is: --input {scalar}=@{file}",
        )
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1 or not any(sizes.values()):
        shown = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise UsageError(
            f"the arrays in {file} do not have the same rows: {shown or 'there are none'}",
            hint=f"to send them as they are, in one request: --input @{file}",
        )
    return Table(file, tuple(arrays), _rows(file, arrays, min(sizes.values())))


def _rows(file: str, arrays: Mapping[str, Array], count: int) -> Iterator[Row]:
    for at in range(count):
        yield Row(Place(file, at + 1), {name: array[at] for name, array in arrays.items()})


def _plain(file: str, array: Array) -> Array:
    if array.dtype.names:
        raise UsageError(
            f"{file} is a structured array, with the fields {', '.join(array.dtype.names)}",
            hint="save one array a column: np.savez(file, **{name: rows[name] for name in "
            "rows.dtype.names})",
        )
    if array.dtype.kind in "US":
        return np.array(array.tolist(), dtype=object).reshape(array.shape)
    return array


def arrays_in(file: str, data: bytes) -> dict[str, Array]:
    """Return the arrays of a .npz file. Raises UsageError."""
    loaded = load_arrays(file, io.BytesIO(data))
    if isinstance(loaded, dict):
        return loaded
    raise UsageError(
        f"{file} has one array without a name", hint=f"give the input's name: NAME=@{file}"
    )


def only_array(name: str, file: str, data: bytes) -> Array:
    """Return the array of a .npy file, or the only one of a .npz file. Raises UsageError."""
    loaded = load_arrays(file, io.BytesIO(data))
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise UsageError(
        f"{file} has {len(loaded)} arrays, and the input {name!r} takes one",
        hint=f"give all of them by their names: --input @{file}",
    )


def stacked(rows: list[Array]) -> Array:
    """Return the rows as one array."""
    return np.stack(rows)


def array_of(name: str, values: Any, spec: TensorSpec | None) -> Array:
    """Return an output as one array of its type. Raises InferenceFailed if it cannot be one.

    Strings become numpy's `str`; bfloat16, which numpy does not have, float32.
    """
    hint = "its rows may have different sizes: take --output jsonl"
    try:
        array = _array_of(values, spec)
    except ValueError as error:
        raise InferenceFailed(
            f"the output {name!r} is not one array: {error}", hint=hint
        ) from error
    if array.dtype == object:
        raise InferenceFailed(f"the output {name!r} is not an array of numbers or text", hint=hint)
    return array


def _array_of(values: Any, spec: TensorSpec | None) -> Array:
    first = next(iter(values), None) if isinstance(values, list) else values
    if getattr(getattr(first, "dtype", None), "kind", "") in _NUMBERS:
        return np.array(values)  # in the type that came, which the server need not list
    if spec is None or spec.dtype is DType.BYTES:
        return np.array(json_value(values, None))
    label = spec.dtype.label.removeprefix("q")
    return np.array(values, dtype="float32" if label == "bfloat16" else label)


def require_shapes(outputs: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Raise InferenceFailed unless each output has the shape that it has in the first row."""
    for name, value in outputs.items():
        shape, expected = np.shape(value), np.shape(first[name])
        if shape != expected:
            raise InferenceFailed(
                f"the output {name!r} has the shape {list(shape)}, and {list(expected)} in the "
                "first row: they do not fit into one array",
                hint="take --output jsonl",
            )


def save_arrays(stream: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file, which need not be seekable. Any name will do, `file` too."""
    archive = zipfile.ZipFile(stream, "w")
    try:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    except BaseException:
        archive.fp = None  # else closing it writes the file's end, and fails in its own way
        raise
    archive.close()
