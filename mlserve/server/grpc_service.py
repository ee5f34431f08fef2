"""What the gRPC protocols share: requests as bytes, the call's deadline, errors as status codes.

Requests and responses pass gRPC as bytes, so that parsing faults become INVALID_ARGUMENT here and
large responses are written on the worker's thread.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, Overloaded
from mlserve.protocols.status import grpc_status
from mlserve.server.boundary import as_known_error, error_text
from mlserve.server.engine import DEFAULT_TIMEOUT

RANDOM_WEIGHTS_KEY = "mlserve-random-weights"
"""The initial metadata of an answer that means nothing, as the model's weights are random."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Respond = Callable[[bytes, Context], Awaitable[bytes]]
Request = TypeVar("Request", bound=Message)


def deadline_of(context: Context) -> Deadline:
    """The deadline of the call, or the default."""
    left = context.time_remaining()
    timeout = DEFAULT_TIMEOUT if left is None else left
    return Deadline(time.monotonic() + timeout, timeout)


def parse(kind: type[Request], data: bytes) -> Request:
    """The message that the bytes hold. Raises InvalidInput."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"the request is not a {kind.DESCRIPTOR.full_name}: {error}") from error


def service(name: str, methods: Mapping[str, Respond]) -> grpc.GenericRpcHandler:
    """The service of that full name, with its methods by name, to be added to a gRPC server."""
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(_guarded(respond))
            for method, respond in methods.items()
        },
    )


def _guarded(respond: Respond) -> Any:
    """The method with its errors turned into status codes: UNKNOWN never gets out."""

    async def answer(request: bytes, context: Context) -> bytes:
        try:
            return await respond(request, context)
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            known = as_known_error(error)
        request = b""  # what abort raises keeps this frame, in a cycle, until the next collection
        await context.abort(
            grpc.StatusCode[grpc_status(known)], error_text(known), _retry_hint(known)
        )
        raise AssertionError  # abort raises

    return answer


def _retry_hint(error: MlserveError) -> tuple[tuple[str, str], ...]:
    """The retry hint of gRPC itself, in milliseconds (the key of its proposal A6)."""
    if isinstance(error, Overloaded) and error.retry_after is not None:
        return (("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),)
    return ()
