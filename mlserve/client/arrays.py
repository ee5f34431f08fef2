"""Turn numpy's arrays into tensors, exactly or not at all, and tensors into arrays.

An array has an element type, so it is converted only where every element keeps its value, but for
one exception: float64 is rounded where the model takes float32, which every server does as well.

This is the client's only module that imports numpy; it is imported when an array is given, or when
the first outputs of a signature arrive.
"""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253

from mlserve.client.tensor import Tensor
from mlserve.client.values import (
    misfit,
    natural_type,
    packed,
    place,
    plain,
    reason_against,
    shown,
)
from mlserve.errors import InvalidInput, UsageError
from mlserve.tensors import DType
from mlserve.wire.tensors import COMPLEX, FLOATS, integer_limits

Array = np.ndarray[Any, Any]
_STORED: dict[DType, Any] = {
    DType.BFLOAT16: np.uint16,
    DType.QINT8: np.int8,
    DType.QUINT8: np.uint8,
    DType.QINT16: np.int16,
    DType.QUINT16: np.uint16,
    DType.QINT32: np.int32,
}
"""The numpy types of those element types that numpy does not know; bfloat16 as its bits."""
_BFLOAT16 = "bfloat16"
"""The name of the type of ml_dtypes, which need not be imported to read an array of it."""
_NUMBERS = "biufc"
_NAN = 0x7FC0
_ROUNDED = {
    DType.FLOAT32: (np.dtype(np.float64),),
    DType.COMPLEX64: (np.dtype(np.complex128), np.dtype(np.float64)),
}
"""What is rounded to a type that is narrower."""


def stored(dtype: DType) -> np.dtype[Any]:
    """Return the numpy dtype of the elements as they are stored: of bfloat16, its bits."""
    found: np.dtype[Any] = np.dtype(_STORED.get(dtype, dtype.label))
    return found


def from_array(name: str, dtype: DType | None, value: Any) -> Tensor:
    """Return what numpy reads as an array as a tensor of the type; None keeps the array's own.

    Raises InvalidInput, naming the input, the place and the value.
    """
    array = _read(name, value)
    if array.dtype.kind in "OUS":
        return _from_objects(name, dtype, array)
    if array.dtype.name == _BFLOAT16:
        if dtype in (None, DType.BFLOAT16):
            return Tensor(array.shape, _raw(array), DType.BFLOAT16)
        array = _widened(array.view(np.uint16))
    if dtype is None:
        dtype = _own_type(name, array)
    is_complex = array.dtype.kind == "c" and dtype not in COMPLEX
    if array.dtype.kind not in _NUMBERS or dtype is DType.BYTES or is_complex:
        raise _wrong_kind(name, dtype, array)
    return Tensor(array.shape, _raw(_converted(name, dtype, array)), dtype)


def to_array(tensor: Tensor) -> Array:
    """Return an output as an array of its own, which can be written to.

    Strings are an object array of `bytes`. Raises UsageError for bfloat16 without ml_dtypes.
    """
    assert tensor.dtype is not None  # the output has been typed
    if not isinstance(tensor.data, bytes):
        strings = np.empty(tensor.count, object)
        strings[:] = tensor.data
        return strings.reshape(tensor.shape)
    dtype = stored(tensor.dtype)
    array: Array = (
        np.frombuffer(tensor.data, dtype.newbyteorder("<")).astype(dtype).reshape(tensor.shape)
    )
    return array.view(bfloat16()) if tensor.dtype is DType.BFLOAT16 else array


def to_lists(array: Array) -> Any:
    """Return an array as nested lists, and a scalar as itself.

    A float of fewer than 64 bits is the shortest decimal that reads as the same: 0.1, not
    0.10000000149011612.
    """
    if array.dtype.name in (_BFLOAT16, "float16", "float32"):
        array = array.astype(np.float32).astype(np.str_).astype(np.float64)
    values: Any = array.tolist()
    return values


def bfloat16() -> np.dtype[Any]:
    """Return the dtype of ml_dtypes. Raises UsageError if that package is not installed."""
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        raise UsageError(
            "numpy alone has no bfloat16: the package ml_dtypes adds it, and is not installed",
            hint="pip install ml_dtypes",
        ) from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _read(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InvalidInput(
            f"input '{name}' is a masked array, and {int(np.ma.getmaskarray(value).sum())} of its "
            "values are missing",
            hint="fill them first: array.filled(value)",
        )
    try:
        return np.asarray(value)
    except Exception as error:  # whatever the array of another library raises
        raise InvalidInput(
            f"input '{name}' is a {type(value).__name__} that numpy cannot read: {error}",
            hint="give a numpy array",
        ) from error


def _from_objects(name: str, dtype: DType | None, array: Array) -> Tensor:
    """Return an array of strings or of Python objects, element by element."""
    elements = [plain(item) for item in array.reshape(-1).tolist()]
    dtype = natural_type(elements) if dtype is None else dtype
    return Tensor(array.shape, packed(name, dtype, array.shape, elements), dtype)


def _raw(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _own_type(name: str, array: Array) -> DType:
    try:
        return DType.from_label(array.dtype.name)
    except ValueError:
        raise _wrong_kind(name, None, array) from None


def _wrong_kind(name: str, dtype: DType | None, array: Array) -> InvalidInput:
    takes = f"; the model takes {dtype.label}" if dtype else ", which no server takes"
    return InvalidInput(
        f"input '{name}' is an array of {array.dtype.name}{takes}",
        hint="give an array of "
        + ("text or bytes" if dtype is DType.BYTES else f"{dtype.label}" if dtype else "numbers"),
    )


def _widened(bits: Array) -> Array:
    """Return bfloat16, given as its bits, as float32: they are its upper half."""
    wide: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def _converted(name: str, dtype: DType, array: Array) -> Array:
    """Return the array as it is stored in the type. Raises InvalidInput for a value lost by it."""
    target = stored(dtype)
    if array.dtype == target and dtype is not DType.BFLOAT16:
        return array
    with np.errstate(all="ignore"):
        converted = _cut(array) if dtype is DType.BFLOAT16 else array.astype(target)
        back = _widened(converted) if dtype is DType.BFLOAT16 else converted
        is_lost: Array = ~_is_kept(dtype, array, back).reshape(-1)
    if is_lost.any():
        raise _loss(name, dtype, array, back, int(is_lost.argmax()))
    return converted


def _cut(array: Array) -> Array:
    """Return the bits of bfloat16, without rounding; a NaN stays one."""
    single = array.astype(np.float32)
    upper = np.where(np.isnan(single), _NAN, single.view(np.uint32) >> 16)
    return upper.astype(np.uint16)


def _is_kept(dtype: DType, array: Array, back: Array) -> Any:
    """Return which elements keep their value; `back` is the array in the other type."""
    if array.dtype in _ROUNDED.get(dtype, ()):
        return np.isnan(array) | (np.isfinite(array) == np.isfinite(back))
    if dtype in FLOATS or dtype in COMPLEX:
        return _is_exact(array, back)
    if dtype is DType.BOOL:
        return (array == 0) | (array == 1)
    low, high = integer_limits(dtype)
    if array.dtype.kind == "f":
        # The largest integer may have no float; the one after it always has.
        is_within = (array >= float(low)) & (array < float(high + 1))
        return is_within & np.isfinite(array) & (np.trunc(array) == array)
    own = np.iinfo(np.uint8 if array.dtype.kind == "b" else array.dtype)
    return (array >= max(low, int(own.min))) & (array <= min(high, int(own.max)))


def _is_exact(array: Array, back: Array) -> Any:
    """Return which numbers are the same as floats; numpy would round a large integer to compare."""
    if array.dtype.kind == "b":
        return np.ones(array.shape, bool)
    if array.dtype.kind not in "iu":
        return (back == array) | (np.isnan(array) & np.isnan(back))
    own, wide = np.iinfo(array.dtype), back.real.astype(np.float64)
    # So the floats are compared as integers, those that the array's own type can hold.
    is_within = (wide >= float(own.min)) & (wide < float(own.max + 1))
    return is_within & (np.where(is_within, wide, 0).astype(array.dtype) == array)


def _loss(name: str, dtype: DType, array: Array, back: Array, index: int) -> InvalidInput:
    """Return the error for the element of that number, which the type cannot hold."""
    value = array.reshape(-1)[index].item()
    if reason_against(dtype, value):
        return misfit(name, dtype, array.shape, index, value)
    nearest = back.reshape(-1)[index].item()
    converted = "ml_dtypes.bfloat16" if dtype is DType.BFLOAT16 else repr(dtype.label)
    return InvalidInput(
        f"input '{name}' is an array of {array.dtype.name}, and the model takes {dtype.label}, "
        f"which cannot hold {shown(value)}{place(array.shape, index)} exactly, only {nearest!r}",
        hint=f"to round it, convert it yourself: array.astype({converted})",
    )
