"""The numbers of a repeated field as an array, without an object for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID253
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mlserve.server.dtypes import Array
from mlserve.server.wire_scan import delimited

_AS_THEY_ARE: dict[int, np.dtype[Any]] = {
    FieldDescriptor.TYPE_FLOAT: np.dtype("<f4"),
    FieldDescriptor.TYPE_DOUBLE: np.dtype("<f8"),
    FieldDescriptor.TYPE_BOOL: np.dtype("?"),
}
"""Types whose packed form on the wire is that of an array in memory."""
_PIECE = 2**16
"""Numbers that are objects at the same time."""


def numbers(message: Message, field: str, dtype: np.dtype[Any]) -> Array:
    """The numbers in that repeated field, flat, of the dtype; the array may be read-only.

    All of them fit it: it is the field's own type, or a wider one.
    """
    about = message.DESCRIPTOR.fields_by_name[field]
    packed = _AS_THEY_ARE.get(about.type)
    if packed is None:
        return _in_pieces(getattr(message, field), dtype)
    if not getattr(message, field):
        return np.empty(0, dtype)
    data = message.SerializeToString()
    start, stop = delimited(data, about.number)
    count = (stop - start) // packed.itemsize
    return np.frombuffer(data, packed, count, start).astype(dtype, copy=False)


def _in_pieces(values: Any, dtype: np.dtype[Any]) -> Array:
    array = np.empty(len(values), dtype)
    for start in range(0, len(values), _PIECE):
        array[start : start + _PIECE] = values[start : start + _PIECE]
    return array
