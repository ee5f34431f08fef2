"""The gRPC transport: bytes in, bytes out, and what each status code means."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Mapping

from mlserve.background import run_on_daemon_thread
from mlserve.client.adapter import Call, Reply
from mlserve.client.endpoint import Connection, Endpoint
from mlserve.client.forks import without_fork_support
from mlserve.client.proxies import Proxy, no_proxy_answers, proxy_to, refused_by_proxy
from mlserve.client.refusals import (
    NotSpoken,
    answer_too_large,
    no_server,
    refusal,
    seconds,
    went_away,
)
from mlserve.client.retries import CallState
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, readable
from mlserve.wire.headers import PRICE, RETRY_AFTER, RETRY_PUSHBACK_MS, read_price
from mlserve.wire.status import error_from_grpc

with without_fork_support():
    import grpc
    import grpc.aio

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),
    # By itself gRPC repeats only calls that the server has not seen, such as one that is begun
    # while a server that stops says so. `Session.ask_with_retries` repeats others, and reports
    # them: so no name may bring a policy for that with it.
    ("grpc.enable_retries", 1),
    ("grpc.service_config_disable_resolution", 1),
    # Of a name with several addresses, as a headless Service of Kubernetes is one, every server is
    # asked in turn; the policy that gRPC takes by itself would send all to one of them.
    ("grpc.lb_policy_name", "round_robin"),
    # A new server is found at once, regardless of what other channels have seen.
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
_PROXY_REFUSED = re.compile(r"HTTP proxy returned", re.IGNORECASE)
_OUR_LIMITS = ("CLIENT: Received message larger", "Decompressed message larger than max")
"""gRPC's messages, as if from the server, for an answer above this client's own limit."""
_GARBAGE = "Stream removed"
"""gRPC's message, as UNKNOWN, for a peer that breaks HTTP/2 in the middle of an answer."""


class GrpcTransport:
    """A gRPC channel, opened by the first call."""

    def __init__(self, connection: Connection) -> None:
        self.endpoint = connection.endpoint
        self._connection = connection
        self._proxy = proxy_to(connection.endpoint)
        self._channel: grpc.aio.Channel | None = None
        self._is_closed = False

    async def send(self, call: Call, state: CallState) -> Reply:
        try:
            return await self._sent(call, state)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            task = asyncio.current_task()
            if not self._is_closed or task is None or task.cancelling():
                raise
            # A channel that is closed cancels its calls, and takes no others: nobody has cancelled
            # this task, and whoever awaits it must not be told so.
            raise self._closed() from None

    async def _sent(self, call: Call, state: CallState) -> Reply:
        through = f" through {self._proxy}" if self._proxy else ""
        state.enter("connect", f"connecting to {self.endpoint}{through}")
        channel, is_connected = await self._reached()
        state.enter("request", f"waiting for the answer of {self.endpoint}")
        left = state.require()
        method: grpc.aio.UnaryUnaryMultiCallable[bytes | None, bytes]
        method = channel.unary_unary(call.path)
        headers = {**call.headers, **state.headers(), **self._connection.headers()}
        pending = method(call.body, timeout=left, metadata=tuple(headers.items()))
        try:
            body = await pending
            metadata = [*await pending.initial_metadata(), *await pending.trailing_metadata()]
        except grpc.aio.AioRpcError as error:
            if not is_connected:
                self._forget(channel)
            raise await self._error(error, state.deadline, is_connected=is_connected) from error
        return reply_of(body, metadata)

    async def close(self) -> None:
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _reached(self) -> tuple[grpc.aio.Channel, bool]:
        """Return a channel, and whether it has a connection.

        One that has lost its connections waits between its own attempts, although the server may be
        back: a new one connects at once.
        """
        is_old = self._channel is not None
        channel = await self._open()
        is_connected = await _reaches_a_server(channel)
        if is_old and not is_connected:
            self._forget(channel)
            channel = await self._open()
            is_connected = await _reaches_a_server(channel)
        return channel, is_connected

    async def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            credentials = await self._credentials()
            if self._is_closed:
                raise self._closed()
            self._channel = self._channel or self._new_channel(credentials)
        return self._channel

    async def _credentials(self) -> grpc.ChannelCredentials | None:
        """Return None without TLS. Reads the files on a thread, because a mount may stall."""
        if not self.endpoint.is_secure:
            return None
        from mlserve.client.tls import channel_credentials

        files = self._connection.tls_files
        return await run_on_daemon_thread(channel_credentials, files)

    def _new_channel(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        options: list[tuple[str, int | str]] = [
            *_OPTIONS,
            ("grpc.max_receive_message_length", self._connection.max_answer_bytes),
            ("grpc.enable_http_proxy", 0),  # the proxy is passed explicitly
        ]
        target = self.endpoint.address
        if self._proxy is not None:
            options += _through(self._proxy, self.endpoint)
            target = self._proxy.address
        if credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        if name := self._connection.tls_files.server_name:
            options.append(("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(target, credentials, options=options)

    def _closed(self) -> MlserveError:
        return went_away(self.endpoint, "this client was closed")

    def _forget(self, channel: grpc.aio.Channel) -> None:
        """Drop the channel, so that the next attempt connects at once instead of backing off."""
        if self._channel is channel:
            self._channel = None

    async def _error(
        self, error: grpc.aio.AioRpcError, deadline: Deadline, *, is_connected: bool
    ) -> MlserveError | NotSpoken:
        code, text = error.code().name, error.details() or ""
        if code == "UNAVAILABLE" and not is_connected:
            why = _CAUSE.sub("", text)
            return await unreached(self._connection, self._proxy, why, deadline)
        if any(words in text for words in _OUR_LIMITS):
            return answer_too_large(self.endpoint, self._connection.max_answer_bytes)
        return status_error(code, text, _metadata(error), self.endpoint, deadline)


def reply_of(body: bytes, metadata: Iterable[tuple[str, str | bytes]]) -> Reply:
    """Return the reply for a message and its metadata; binary metadata is left out."""
    return Reply(body, {key: value for key, value in metadata if isinstance(value, str)})


def status_error(
    code: str,
    text: str,
    metadata: Iterable[tuple[str, str | bytes]],
    endpoint: Endpoint,
    deadline: Deadline,
) -> MlserveError | NotSpoken:
    """Return the error for a status with that code, message and metadata."""
    if (code == "UNAVAILABLE" and _LOST.search(text)) or text.startswith(_GARBAGE):
        return went_away(endpoint, text)
    kind = error_from_grpc(code)
    headers = dict(iter(metadata))  # not its keys(): with grpcio 1.66 they are pairs
    sender, pause = str(headers.get("server", "")), _retry_after(headers)
    price = read_price(str(headers.get(PRICE, "")))
    refused = refusal(kind, text, endpoint, deadline, retry_after=pause, price=price, sender=sender)
    return NotSpoken(refused) if code == "UNIMPLEMENTED" else refused


async def unreached(
    connection: Connection, proxy: Proxy | None, why: str, deadline: Deadline
) -> MlserveError:
    """Return the error for an endpoint to which no connection could be made."""
    from mlserve.client.diagnosis import failure_by_looking, failure_by_words
    from mlserve.client.tls import closing_hint

    endpoint = connection.endpoint
    failure = failure_by_words(endpoint, why)
    if failure is None and proxy is not None:
        tell = refused_by_proxy if _PROXY_REFUSED.search(why) else no_proxy_answers
        return tell(readable(why), proxy, endpoint)
    if failure is None and _LOST.search(why):
        failure = await failure_by_looking(connection, deadline)
    hint = closing_hint(endpoint, has_certificate=connection.has_certificate)
    return failure or no_server(endpoint, why, hint if _LOST.search(why) else "")


async def _reaches_a_server(channel: grpc.aio.Channel) -> bool:
    """Return whether the channel connects; if not, UNAVAILABLE did not come from the server."""
    state = channel.get_state(try_to_connect=True)
    while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY


def _through(proxy: Proxy, endpoint: Endpoint) -> list[tuple[str, int | str]]:
    """Return the options of a channel that tunnels through the proxy to the endpoint."""
    options: list[tuple[str, int | str]] = [
        ("grpc.http_connect_server", endpoint.address),
        ("grpc.default_authority", endpoint.address),
    ]
    headers = "\n".join(f"{name}:{value}" for name, value in proxy.headers.items())
    return [*options, ("grpc.http_connect_headers", headers)] if headers else options


def _metadata(error: grpc.aio.AioRpcError) -> list[tuple[str, str | bytes]]:
    """Return the metadata that came with the status: initial and trailing."""
    return [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]


def _retry_after(headers: Mapping[str, str | bytes]) -> float | None:
    """Return seconds; infinity if the pushback is negative or not a number, as gRFC A6 says."""
    pushback = headers.get(RETRY_PUSHBACK_MS)
    if pushback is None:
        return seconds(headers.get(RETRY_AFTER))
    milliseconds = seconds(pushback)
    return math.inf if milliseconds is None else milliseconds / 1000
