"""Calls over gRPC: bytes in, bytes out, and what each status code means."""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc
import grpc.aio

from mlserve.client.endpoint import Endpoint
from mlserve.client.refusals import NotSpoken, no_server, refusal, went_away
from mlserve.client.wire import Call, Reply, Watch
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError
from mlserve.protocols.status import error_from_grpc

RANDOM_WEIGHTS_KEY = "mlserve-random-weights"
_SIGNATURES_KEY = "mlserve-signatures"
_RETRY_KEYS = {"retry-after": 1.0, "grpc-retry-pushback-ms": 0.001}
_OPTIONS: tuple[tuple[str, int], ...] = (
    # The library's own limit of 4 MiB for answers is not the server's.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A call that failed is reported, never repeated behind the caller's back.
    ("grpc.enable_retries", 0),
    # A server that has just come up is found at once, whatever other channels have seen.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_CAUSE = re.compile(
    r"^.*last error: |UNKNOWN: |ipv[46]:\S+: |(Failed to connect to remote host: )?connect: "
)
_LOST = re.compile(
    r"socket closed|connection reset|broken pipe|goaway|stream removed|recvmsg|sendmsg|rst_stream"
    r"|connection closed|transport closed|endpoint closing|connection dropped",
    re.IGNORECASE,
)
_GARBAGE = "Stream removed"
"""What gRPC says, as UNKNOWN, of a peer that breaks HTTP/2 in the middle of an answer."""


class GrpcTransport:
    """A gRPC channel without TLS, opened by the first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._channel: grpc.aio.Channel | None = None

    async def send(self, call: Call, deadline: Deadline, watch: Watch) -> Reply:
        watch.enter("connect", f"connecting to {self._endpoint}")
        channel = self._open()
        is_connected = await _reaches_a_server(channel)
        watch.enter("request", f"waiting for the answer of {self._endpoint}")
        left = deadline.require(watch.doing)
        method: grpc.aio.UnaryUnaryMultiCallable[bytes | None, bytes]
        method = channel.unary_unary(call.path)
        pending = method(call.body, timeout=left)
        try:
            body = await pending
            metadata = [*await pending.initial_metadata(), *await pending.trailing_metadata()]
        except grpc.aio.AioRpcError as error:
            raise self._error(error, deadline, is_connected=is_connected) from error
        names = str(dict(metadata).get(_SIGNATURES_KEY, ""))
        signatures = tuple(filter(None, names.split(",")))
        return Reply(body, (RANDOM_WEIGHTS_KEY, "1") in metadata, signatures=signatures)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            proxy = ("grpc.enable_http_proxy", 0 if self._endpoint.is_loopback else 1)
            self._channel = grpc.aio.insecure_channel(
                self._endpoint.address, options=(*_OPTIONS, proxy)
            )
        return self._channel

    def _error(
        self, error: grpc.aio.AioRpcError, deadline: Deadline, *, is_connected: bool
    ) -> MlserveError | NotSpoken:
        code, text = error.code().name, error.details() or ""
        if code == "UNAVAILABLE" and not is_connected:
            return no_server(self._endpoint, _CAUSE.sub("", text))
        if (code == "UNAVAILABLE" and _LOST.search(text)) or text.startswith(_GARBAGE):
            return went_away(self._endpoint, text)
        retry_after = _retry_after(error.trailing_metadata() or ())
        kind = error_from_grpc(code)
        refused = refusal(kind, text, self._endpoint, deadline, retry_after=retry_after)
        return NotSpoken(refused) if code == "UNIMPLEMENTED" else refused


async def _reaches_a_server(channel: grpc.aio.Channel) -> bool:
    """Whether the channel gets a connection: UNAVAILABLE without one is not the server's word."""
    state = channel.get_state(try_to_connect=True)
    while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY


def _retry_after(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    for key, value in metadata:
        if key in _RETRY_KEYS:
            try:
                return float(value) * _RETRY_KEYS[key]
            except ValueError:
                return None  # a stranger's wording; the refusal stands without it
    return None
