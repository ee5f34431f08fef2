"""What the gRPC protocols share: requests as bytes, the call's deadline, errors as status codes.

Requests and responses pass gRPC as bytes, so that parsing faults become INVALID_ARGUMENT here and
large responses are written on the worker's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError, Overloaded
from mlserve.protocols.status import grpc_status
from mlserve.server.boundary import as_known_error, error_text
from mlserve.server.sight.exchange import Route
from mlserve.server.sight.requests import Sight, grpc_route

CONTRACT_KEY = "mlserve-contract"
RANDOM_WEIGHTS_KEY = "mlserve-random-weights"
"""The initial metadata of an answer that means nothing, as the model's weights are random."""
_CLIENT_FIRST = 0.05
"""Seconds by which a client may see the deadline pass before the server does."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Respond = Callable[[bytes, Context], Awaitable[bytes]]


def deadline_of(context: Context, default: float) -> Deadline:
    """The deadline of the call, or `default` seconds."""
    left = context.time_remaining()
    timeout = default if left is None else left
    return Deadline.at_most(timeout)


def service(name: str, methods: Mapping[str, Respond], sight: Sight) -> grpc.GenericRpcHandler:
    """The service of that full name, with its methods by name, to be added to a gRPC server."""
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(
                _guarded(respond, grpc_route(f"/{name}/{method}"), sight)
            )
            for method, respond in methods.items()
        },
    )


def _guarded(respond: Respond, route: Route, sight: Sight) -> Any:
    """The method with its errors turned into status codes: UNKNOWN never gets out."""

    async def answer(request: bytes, context: Context) -> bytes:
        exchange = sight.begin(route, header_of(context))
        exchange.bytes_in = len(request)
        try:
            response = await respond(request, context)
        except asyncio.CancelledError:
            if _is_over(context):
                exchange.failed(DeadlineExceeded("the deadline passed, and the client left"))
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            known = as_known_error(error)
            exchange.failed(known)
        else:
            exchange.answered()
            context.set_trailing_metadata(exchange.headers())
            return response
        finally:
            sight.end(exchange)
        request = b""  # what abort raises keeps this frame, in a cycle, until the next collection
        await context.abort(
            grpc.StatusCode[grpc_status(known)],
            error_text(known),
            (*_retry_hint(known), *exchange.headers()),
        )
        raise AssertionError  # abort raises

    return answer


def _is_over(context: Context) -> bool:
    """Whether the call's deadline has passed; the client's own clock runs out a little sooner."""
    left = context.time_remaining()
    return left is not None and left < _CLIENT_FIRST


def header_of(context: Context) -> Callable[[str], str | None]:
    """What looks up a key of the call's metadata; bytes are no header.

    Of a key that comes twice the first value counts, as over REST.
    """
    sent = dict(reversed(tuple(context.invocation_metadata() or ())))

    def header(name: str) -> str | None:
        value = sent.get(name)
        return value if isinstance(value, str) else None

    return header


def _retry_hint(error: MlserveError) -> tuple[tuple[str, str], ...]:
    """The retry hint of gRPC itself, in milliseconds (the key of its proposal A6)."""
    if isinstance(error, Overloaded) and error.retry_after is not None:
        return (("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),)
    return ()
