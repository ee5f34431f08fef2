"""Shared by the gRPC protocols: unary methods over bytes, deadlines, errors as status codes.

Requests and responses pass through the port as bytes, so that parsing errors become
INVALID_ARGUMENT here and large responses are serialized on the worker's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InputTooLarge, InvalidInput, MlserveError, Overloaded
from mlserve.server.engine.engine import Engine
from mlserve.server.errors import as_known_error, error_text
from mlserve.server.listen.drain import InFlight
from mlserve.server.listen.grpc.call import Accept, Context, GrpcCall
from mlserve.server.listen.grpc.status import GrpcStatus
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.wire.headers import (
    PRICE,
    RETRY_PUSHBACK_MS,
    TRACEPARENT,
    TRACESTATE,
    write_price,
)
from mlserve.wire.services import method_path
from mlserve.wire.status import grpc_status

FEW_BYTES = 1024
"""Largest message, in bytes, of methods that take little more than a name."""
_OK = "OK"
_CLIENT_FIRST = 0.05
"""Seconds by which a client may see the deadline expire before the server does."""

BytesMethod = Callable[[bytes, Context], Awaitable[bytes]]
"""Takes the bytes of a call's message, returns those of its answer. Raises MlserveError."""
Methods = Mapping[Purpose, Mapping[str, BytesMethod]]
"""The methods of a service by name, grouped by purpose."""


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service of the protocol `api`.

    Methods named in `health` need no token, and take messages so small that their memory is not
    counted.
    """

    name: str
    api: str
    methods: Methods
    health: Collection[str] = ()


def deadline_of(context: Context, default: float) -> Deadline:
    """Return the deadline of the call, or one after `default` seconds."""
    return Deadline.at_most(context.time_remaining(), default)


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A method with one message each way, whose errors become status codes."""

    respond: BytesMethod
    route: Route
    engine: Engine
    telemetry: Telemetry
    in_flight: InFlight
    most_bytes: int | None
    needs_token: bool

    def begin(self, call: GrpcCall, accept: Accept) -> None:
        """Admit the call, or refuse it before any of its message is taken.

        Raises GrpcStatus.
        """
        header = header_of(call.context)
        context = call.context
        record = self.telemetry.begin(self.route, header, context.address, context.peer)
        record.named(call.context.token)
        self.in_flight.take(record)

        def end() -> None:
            self.in_flight.answered(record)
            self.telemetry.end(record)

        try:
            if self.route.purpose is Purpose.PREDICT:
                record.take_priority(header)
                deadline = deadline_of(call.context, self.engine.default_timeout)
                record.take_deadline(deadline)
                self.engine.admit(deadline)
            accept(call)
        except MlserveError as error:
            refusal = status_of(error, record)
            end()
            raise refusal from None
        call.begin(self._serve(call, record), end)

    async def _serve(self, call: GrpcCall, record: RequestRecord) -> None:
        try:
            data = await call.only_message()
            record.bytes_in = len(data)
            if record.sample is not None:
                record.sample.keep_body(data)
            call.begin_work()
            response = await self.respond(data, call.context)
        except asyncio.CancelledError:
            if _is_over(call.context):
                record.failed(DeadlineExceeded("the deadline passed, and the client disconnected"))
            raise
        except GrpcStatus as status:
            record.failed(_error_of(status))
            record.status = status.code
            call.end(status.code, status.text, record.headers())
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            refusal = status_of(as_known_error(error), record)
            call.end(refusal.code, refusal.text, refusal.trailing)
        else:
            record.answered()
            if record.sample is not None:
                record.sample.keep_answer(response)
            record.status = _OK
            call.context.set_trailing_metadata(record.headers())
            call.answer(response)


def unary_methods(
    services: Iterable[Service], engine: Engine, telemetry: Telemetry, in_flight: InFlight
) -> dict[str, UnaryMethod]:
    """Return the methods of these services by full name."""
    methods = {}
    for service in services:
        for purpose, responds in service.methods.items():
            for name, respond in responds.items():
                path = method_path(service.name, name)
                is_health = name in service.health
                methods[path] = UnaryMethod(
                    respond,
                    Route("grpc", service.api, purpose, path),
                    engine,
                    telemetry,
                    in_flight,
                    FEW_BYTES if is_health else None,
                    not is_health,
                )
    return methods


def status_of(error: MlserveError, record: RequestRecord) -> GrpcStatus:
    """Return the status for a call that failed with this error, and note it in the record."""
    record.failed(error)
    record.status = grpc_status(error)
    trailing = (*_retry_hint(error), *record.headers())
    return GrpcStatus(record.status, error_text(error), trailing)


def header_of(context: Context) -> Callable[[str], str | None]:
    """Return a function that looks up a text value in the call's metadata.

    If a key occurs twice, the first value counts, but for those of traces, as over REST.
    """
    metadata = context.invocation_metadata()
    sent = dict(reversed(metadata))
    if len(sent) != len(metadata):
        sent |= _joined(metadata)

    def header(name: str) -> str | None:
        value = sent.get(name)
        return value if isinstance(value, str) else None

    return header


def _joined(metadata: Sequence[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """Return the values of traces, which W3C has joined: two traceparents are none."""
    found: dict[str, str | bytes] = {}
    for name in (TRACEPARENT, TRACESTATE):
        values = [value for key, value in metadata if key == name and isinstance(value, str)]
        if values:
            found[name] = ",".join(values)
    return found


def _error_of(status: GrpcStatus) -> MlserveError:
    """Return the error that corresponds to a status raised by the port itself."""
    kind = InputTooLarge if status.code == "RESOURCE_EXHAUSTED" else InvalidInput
    return kind(status.text)


def _is_over(context: Context) -> bool:
    """Return whether the call's deadline has passed; the client may cancel slightly earlier."""
    left = context.time_remaining()
    return left is not None and left < _CLIENT_FIRST


def _retry_hint(error: MlserveError) -> tuple[tuple[str, str], ...]:
    """Return the price, and gRPC's `Retry-After`, in milliseconds (gRPC proposal A6)."""
    if not isinstance(error, Overloaded) or error.retry_after is None:
        return ()
    pushback = (RETRY_PUSHBACK_MS, str(round(error.retry_after * 1000)))
    return (pushback,) if error.price is None else (pushback, (PRICE, write_price(error.price)))
