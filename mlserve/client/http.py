"""The REST transport: bytes in, bytes out, and what each status code means.

The connections are our own HTTP/1.1 (`http1.py`, `http1_pool.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from mlserve.client.adapter import Call, Reply
from mlserve.client.codecs import parse_json, shown
from mlserve.client.endpoint import Connection
from mlserve.client.http1 import RECEIVING, SENDING, WAITING, ClosedByUs, Lost
from mlserve.client.http1_answer import (
    AnswerError,
    AnswerReader,
    NotHttp,
    TooLarge,
    UnknownCoding,
)
from mlserve.client.http1_opening import NotConnected, NoTunnel, Opening, in_ascii
from mlserve.client.http1_pool import MOST_CONNECTIONS, Pool
from mlserve.client.proxies import no_proxy_answers, of_this_proxy, proxy_to, refused_by_proxy
from mlserve.client.refusals import (
    NotSpoken,
    Unreadable,
    answer_too_large,
    no_server,
    not_an_answer,
    refusal,
    seconds,
    went_away,
    without_traceback,
)
from mlserve.client.retries import CallState
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, UsageError, readable
from mlserve.wire.headers import (
    PRICE,
    REQUEST_TIMEOUT_MS,
    RETRY_AFTER,
    RETRY_AFTER_MS,
    over_http,
    read_price,
)
from mlserve.wire.status import error_from_http

_OK = 200
_NO_SUCH_PATH = {
    404: ("not found", "requested resource is not found, please refer to api document."),
    405: ("method not allowed", "requested method is not allowed, please refer to api document."),
}
"""Standard messages of web frameworks, and TorchServe's, for a path that they do not have."""
_BAD_REQUEST = 400
_OF_PROXIES = (403, 407, 502, 503, 504)
"""Statuses that a proxy sends on its own, without the JSON of a model server's error."""
_OF_TORCHSERVE = {"code", "type", "message"}
_MOST_OF_AN_ERROR = 2**18
"""Bytes of an error's body searched for the exception at the end of a traceback."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_SAFE = "/?&=%:@!$'()*+,;~-._"
"""Characters of a path and its query that are sent as they are."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class _Received:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RestTransport:
    """HTTP/1.1 connections to one server, opened as calls need them."""

    def __init__(self, connection: Connection) -> None:
        self.endpoint = connection.endpoint
        self._connection = connection
        self._proxy = proxy_to(connection.endpoint)
        self._pool = Pool(Opening(connection, self._proxy))
        through = f" through {self._proxy}" if self._proxy else ""
        self._connecting = f"connecting to {self.endpoint}{through}"
        self._doing = {
            SENDING: f"sending the request to {self.endpoint}",
            WAITING: f"waiting for the answer of {self.endpoint}",
            RECEIVING: f"receiving the answer of {self.endpoint}",
        }
        self._start, self._fields = self._of_every_request()

    async def send(self, call: Call, state: CallState) -> Reply:
        state.enter("connect", self._connecting)
        try:
            answer = await self._exchange(call, state)
        except (NotConnected, Lost, AnswerError) as error:
            raise await self._failure(error, state.deadline) from error
        state.require()  # an answer that is read after the deadline is none
        if answer.status != _OK:
            raise self._error(answer, state.deadline)
        return Reply(answer.body, answer.headers)

    async def close(self) -> None:
        await self._pool.close()

    async def _exchange(self, call: Call, state: CallState) -> _Received:
        def when_waiting() -> None:
            state.enter("connect", f"waiting for one of {MOST_CONNECTIONS} connections to be free")

        connection = await self._pool.take(state.deadline, when_waiting)
        try:
            head, reader = self._head(call, state), AnswerReader(self._connection.max_answer_bytes)
            await connection.ask(
                *(head, call.body or b"", reader),
                lambda stage: state.enter("request", self._doing[stage]),
            )
        except BaseException:
            connection.drop()
            raise
        self._pool.give_back(connection)
        return _Received(reader.status, reader.headers, reader.body)

    def _of_every_request(self) -> tuple[str, str]:
        """Return how the target of each request begins, and the fields that each has."""
        endpoint = self.endpoint
        host = in_ascii(endpoint.authority).removesuffix(_DEFAULT_PORTS[endpoint.scheme])
        fields = {"host": host, "accept-encoding": "identity"}
        start = endpoint.path
        if self._proxy is not None and not endpoint.is_secure:
            start = f"http://{host}{endpoint.path}"  # for the proxy (RFC 9112, 3.2.2)
            fields |= self._proxy.headers
        fields |= self._connection.headers()
        return start, _written(fields)

    def _head(self, call: Call, state: CallState) -> bytes:
        left_ms = max(1, int(state.require() * 1000))
        body = call.body
        fields = {REQUEST_TIMEOUT_MS: str(left_ms)}
        if body is not None:
            fields |= {"content-type": "application/json", "content-length": str(len(body))}
        fields |= call.headers
        target = quote(self._start + call.path, safe=_SAFE)
        method = "GET" if body is None else "POST"
        own = _written(fields | state.headers())
        return f"{method} {target} HTTP/1.1\r\n{self._fields}{own}\r\n".encode()

    async def _failure(
        self, error: NotConnected | Lost | AnswerError, deadline: Deadline
    ) -> MlserveError:
        if isinstance(error, TooLarge):
            return answer_too_large(self.endpoint, self._connection.max_answer_bytes)
        if isinstance(error, UnknownCoding):
            what = Unreadable("HTTP in a known encoding", str(error))
            return not_an_answer(self.endpoint, what)
        if isinstance(error, ClosedByUs):
            return went_away(self.endpoint, str(error))
        from mlserve.client.diagnosis import failure_by_looking, failure_by_words

        failure = None
        if isinstance(error, NotConnected | Lost):
            failure = failure_by_words(self.endpoint, str(error))
        if failure is None and isinstance(error, NotHttp | Lost):
            failure = await failure_by_looking(self._connection, deadline)
        return failure or self._unexplained(error)

    def _unexplained(self, error: NotConnected | Lost | AnswerError) -> MlserveError:
        """Return the error for a failure that has no better explanation than its words."""
        if isinstance(error, NotConnected):
            return self._unreached(error)
        if isinstance(error, NotHttp):
            return not_an_answer(self.endpoint, Unreadable("HTTP", str(error)))
        from mlserve.client.tls import closing_hint

        hint = closing_hint(self.endpoint, has_certificate=self._connection.has_certificate)
        return went_away(self.endpoint, str(error), hint)

    def _unreached(self, error: NotConnected) -> MlserveError:
        if self._proxy is None:
            return no_server(self.endpoint, str(error))
        tell = refused_by_proxy if isinstance(error, NoTunnel) else no_proxy_answers
        return tell(readable(str(error)), self._proxy, self.endpoint)

    def _error(self, answer: _Received, deadline: Deadline) -> MlserveError | NotSpoken:
        reason = _reason(answer)
        body = answer.body[:_MOST_OF_AN_ERROR].decode(errors="backslashreplace")
        body = without_traceback(body)[:200]
        if self._proxy and reason is None and answer.status in _OF_PROXIES:
            said = f"HTTP {answer.status} {readable(body)}"
            return of_this_proxy(answer.status, said, self._proxy, self.endpoint, deadline)
        refused = refusal(
            error_from_http(answer.status),
            f"HTTP {answer.status} {body}" if reason is None else reason,
            self.endpoint,
            deadline,
            retry_after=_retry_after(answer.headers),
            price=read_price(answer.headers.get(over_http(PRICE), "")),
            sender=answer.headers.get("server", ""),
        )
        return NotSpoken(refused) if _is_unknown_path(answer, reason) else refused


def _written(fields: Mapping[str, str]) -> str:
    """Return the fields as lines of a head. Raises UsageError for what no line can hold."""
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    if _CONTROL.search(text.replace("\r\n", "")) or text.count("\r\n") != len(fields):
        name, value = next(one for one in fields.items() if _CONTROL.search(one[1]))
        raise UsageError(
            f"the header {name} cannot hold {value!r}",
            hint="give a name without control characters and line breaks",
        )
    return text


def _reason(answer: _Received) -> str | None:
    """Return the server's message from `{"error": "..."}`; None for a body of another shape.

    TorchServe's shape is `{"code": 404, "type": "...", "message": "..."}`.
    """
    if len(answer.body) > _MOST_OF_AN_ERROR:
        return None
    try:
        body = parse_json(answer.body)
        said = body["message"] if body.keys() == _OF_TORCHSERVE else body["error"]
    except (Unreadable, KeyError):
        return None
    return said if isinstance(said, str) else shown(said)


def _is_unknown_path(answer: _Received, reason: str | None) -> bool:
    """Return whether the server has no such path; for a missing model it sends its own message."""
    if answer.status in _NO_SUCH_PATH:
        return reason is None or reason.lower() in _NO_SUCH_PATH[answer.status]
    # Triton sends an empty 400 for an unknown path.
    return answer.status == _BAD_REQUEST and not answer.body


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds; a date is useless within a deadline, and counts as None."""
    milliseconds = seconds(headers.get(RETRY_AFTER_MS))
    return seconds(headers.get(RETRY_AFTER)) if milliseconds is None else milliseconds / 1000
