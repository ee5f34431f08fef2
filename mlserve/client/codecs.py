"""Decoding shared by the adapters: outputs and JSON, with limits on memory.

`most_values` bounds an answer about an image or a model. For the outputs of any other signature,
which the caller has asked for, it is None: what bounds them is their size on the wire, and in JSON
`MOST_OF_TENSORS`.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence
from typing import Any

from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor
from mlserve.tensors import DType

MOST_VALUES = 1_000_000
"""More values than any answer about one image or one model has.

Parsing takes 60 to 230 bytes for each, and blocks the whole process meanwhile.
"""
MOST_OF_TENSORS = 2**24
"""More values than JSON of outputs should have: they take a gigabyte, and seconds to parse."""
OVER_GRPC = "ask over gRPC: {protocol grpc}"
"""The hint for a value that JSON cannot hold."""
WRONG = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
"""Raised when JSON of another shape is read."""
_BEFORE_A_VALUE = (b",", b"[", b"{")
_EXCERPT = 200
"""Bytes of a body that a message shows."""


def checked(
    name: str,
    shape: tuple[int, ...],
    data: Sequence[Any],
    dtype: DType | None,
    most_values: int | None,
) -> Tensor:
    """Return an output of these elements. Raises Unreadable if the shape has not as many."""
    if len(data) != element_count(name, shape, most_values):
        raise Unreadable(f"an output {name!r} of shape {list(shape)}", f"{len(data)} values")
    return Tensor(shape, data, dtype)


def element_count(name: str, shape: tuple[int, ...], most_values: int | None) -> int:
    """Return the number of elements of an output. Raises Unreadable for an absurd shape."""
    size = math.prod(shape)
    if min(shape, default=1) < 0 or (most_values is not None and size > most_values):
        raise Unreadable(f"an output {name!r}", f"a tensor of shape {list(shape)}")
    return size


def parse_json(body: bytes, most_values: int = MOST_VALUES) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises Unreadable, also above `most_values` values."""
    data = parse_any_json(body, most_values)
    if not isinstance(data, dict):
        raise Unreadable("a JSON object", excerpt(body))
    return data


def parse_any_json(body: bytes, most_values: int = MOST_VALUES) -> Any:
    """Return the JSON value in `body`. Raises Unreadable, also above `most_values` values.

    Bytes that are not UTF-8, which TensorFlow Serving writes into strings as they are, become lone
    surrogates.
    """
    if sum(map(body.count, _BEFORE_A_VALUE)) > most_values:
        raise Unreadable(f"JSON of at most {most_values} values", excerpt(body))
    try:
        return _loaded(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON", excerpt(body)) from error


def _loaded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except UnicodeDecodeError:
        return json.loads(body.decode(errors="surrogateescape"))


def excerpt(body: bytes) -> str:
    """Return the beginning of a body, for a message."""
    text = body[:_EXCERPT].decode(errors="backslashreplace")
    return repr(text) + (f" ... ({len(body)} bytes)" if len(body) > len(text) else "")


def shown(value: Any) -> str:
    """Return a bounded representation of a value, for a message."""
    return reprlib.repr(value)
