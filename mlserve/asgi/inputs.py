"""Turn the values of a Python caller into the arrays that a signature takes.

An array, a data frame or a tensor has a type of its own, and may only be widened: a float64 array
is not a float32 input, as rounding it could change the answer without a word. Lists of Python
numbers have no such type: they become the input's, if every number fits into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.errors import InvalidInput
from mlserve.server.codec.images import check_images
from mlserve.server.tensors import NUMPY, Array, check_batch_length, check_names
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc", "V": "iuf"}
"""The kinds of numpy dtypes whose numbers fit into one of the key's kind; V is bfloat16."""
_FLOATS = "fV"


def read_inputs(
    signature: Signature, given: Mapping[str, Any], settings: ServerSettings
) -> Tensors:
    """Return the inputs as arrays, checked against the signature and the server's limits.

    Raises InvalidInput, naming the input.
    """
    check_names(signature, given)
    inputs = {spec.name: to_array(spec, given[spec.name]) for spec in signature.inputs_in(given)}
    for spec in signature.inputs_in(inputs):
        check_batch_length(spec, inputs[spec.name].shape, settings.max_batch_length)
    check_images(signature, inputs, settings)
    return inputs


def to_array(spec: TensorSpec, value: Any) -> Array:
    """Return the value as an array of the input's type.

    Strings may be `bytes` or text, which becomes UTF-8. Raises InvalidInput.
    """
    if spec.dtype is DType.BYTES:
        return _to_strings(spec, value)
    wanted = NUMPY[spec.dtype]
    try:
        array: Array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"input '{spec.name}' is not a regular array: {error}") from error
    if array.dtype == wanted:
        return array
    if hasattr(value, "__array__"):
        return _widened(spec, array, wanted)
    if array.size and array.dtype.kind not in _KINDS[wanted.kind]:
        raise InvalidInput(f"input '{spec.name}' has {array.dtype} values, not {spec.dtype.label}")
    return _fitted(spec, array, wanted)


def rows_of(given: Mapping[str, Any]) -> int:
    """Return the first size of the inputs, as far as it shows before they are read; else 1."""
    return max(map(_length, given.values()), default=1)


def _widened(spec: TensorSpec, array: Array, wanted: np.dtype[Any]) -> Array:
    if not np.can_cast(array.dtype, wanted, "safe"):
        raise InvalidInput(
            f"input '{spec.name}' is {array.dtype}, not {spec.dtype.label}",
            hint=f"convert it where you know that nothing is lost: .astype({str(wanted)!r})",
        )
    return array.astype(wanted)


def _fitted(spec: TensorSpec, array: Array, wanted: np.dtype[Any]) -> Array:
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise _out_of_range(spec)
    with np.errstate(over="ignore"):
        fitted = array.astype(wanted)
    if wanted.kind in _FLOATS and np.any(np.isinf(fitted) != np.isinf(array)):
        raise _out_of_range(spec)
    return fitted


def _out_of_range(spec: TensorSpec) -> InvalidInput:
    return InvalidInput(f"input '{spec.name}' has a value out of range of {spec.dtype.label}")


def _to_strings(spec: TensorSpec, value: Any) -> Array:
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    try:
        array: Array = np.asarray(value, dtype=object)
    except ValueError as error:
        raise InvalidInput(f"input '{spec.name}' is not a regular array: {error}") from error
    strings = np.empty(array.shape, dtype=object)
    for place, item in np.ndenumerate(array):
        strings[place] = _to_bytes(spec, item)
    return strings


def _to_bytes(spec: TensorSpec, item: Any) -> bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if not isinstance(item, str):
        raise InvalidInput(
            f"input '{spec.name}' has a {type(item).__name__} where bytes or text is expected"
        )
    try:
        return item.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input '{spec.name}' has half a character: {error}") from error


def _length(value: Any) -> int:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if shape else 1
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else 1
