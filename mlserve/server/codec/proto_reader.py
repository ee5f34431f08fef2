"""Parse the bytes of a gRPC request into its message, and its lists of numbers into arrays.

The bytes are checked before they are parsed (`proto_scan`); long work is done on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput
from mlserve.server.body_memory import held_body
from mlserve.server.codec.proto_scan import TooManyFields, delimited, estimate, quick_estimate
from mlserve.server.tensors import Array

_INLINE_FIELDS = 2000
"""Fields walked on the event loop: one millisecond, about as long as handing them to a thread."""
_INLINE_BYTES = 8 * 2**20
"""Largest message, in bytes of memory, parsed on the event loop: a few milliseconds."""
_READERS = ThreadPoolExecutor(2, thread_name_prefix="mlserve-read")
"""Two: protobuf holds the GIL, so more gain nothing; one long walk must not delay a short one."""

_DOING = "reading the request"

_AS_THEY_ARE: dict[int, np.dtype[Any]] = {
    FieldDescriptor.TYPE_FLOAT: np.dtype("<f4"),
    FieldDescriptor.TYPE_DOUBLE: np.dtype("<f8"),
    FieldDescriptor.TYPE_BOOL: np.dtype("?"),
}
"""Types whose packed encoding equals the memory layout of an array."""
_PIECE = 2**16
"""Numbers that exist as Python objects at the same time."""

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")


async def read_message(kind: type[Request], data: bytes, deadline: Deadline) -> Request:
    """Check and parse a request; its memory is counted in the body of the running task.

    Raises InvalidInput, InputTooLarge, DeadlineExceeded, and Overloaded if there is no room.
    """
    try:
        size = quick_estimate(data, kind, _INLINE_FIELDS)
    except TooManyFields:
        size = await on_thread(partial(estimate, data, kind, deadline), deadline)
    deadline.require(_DOING)
    if (body := held_body()) is not None:
        body.take(size - len(data))  # the bytes themselves were counted as they arrived
    if size <= _INLINE_BYTES:
        return parse(kind, data)
    return await on_thread(partial(parse, kind, data), deadline)


def parse(kind: type[Request], data: bytes) -> Request:
    """Parse bytes that have been checked. Raises InvalidInput."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidInput(
            f"the request is not a valid {kind.DESCRIPTOR.full_name}: {error}"
        ) from error


async def on_thread(work: Callable[[], Result], deadline: Deadline) -> Result:
    """Run `work` on a thread and return its result. Raises DeadlineExceeded once that passes.

    The thread cannot be stopped, so the task's body stays counted until the work has ended.
    """
    body = held_body()

    def work_and_count() -> Result:
        with nullcontext() if body is None else body:
            return work()

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(deadline.expires_at):
            return await loop.run_in_executor(_READERS, work_and_count)
    except TimeoutError:
        raise deadline.exceeded(_DOING) from None


def numbers(message: Message, field: str, dtype: np.dtype[Any]) -> Array:
    """Return the numbers in a repeated field as a flat array, which may be read-only.

    `dtype` must be the field's own type or a wider one, so that every number fits.
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


def narrow(name: str, wide: Array, target: np.dtype[Any]) -> Array:
    """Convert integers to the `target` type. Raises InvalidInput for values out of its range."""
    limits = np.iinfo(target)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise InvalidInput(f"input '{name}' has a value outside {limits.min} to {limits.max}")
    return wide.astype(target)


def _in_pieces(values: Any, dtype: np.dtype[Any]) -> Array:
    array = np.empty(len(values), dtype)
    for start in range(0, len(values), _PIECE):
        array[start : start + _PIECE] = values[start : start + _PIECE]
    return array
