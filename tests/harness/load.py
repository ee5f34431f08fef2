"""Clients that send requests without pause, and account for the outcome of each.

A request is *accepted* unless its client is told that the server does not take it: the connection
is refused (or gets no reply at all, as the port is being closed), HTTP 503, or gRPC's UNAVAILABLE
or CANCELLED, gRPC's own status for a call that arrives while it shuts down. An accepted request is
*lost* when its client gets no answer: its connection ends after the request was sent, or the answer
is anything but the model's. A client may keep its connection for the next request; like HTTP
connection pools, it first checks whether the server has closed it.
"""

from __future__ import annotations

import http.client
import json
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc

from mlserve.testing.questions import as_base64, predict_method, request_of

_TIMEOUT = 20.0
_CONNECT_TIMEOUT = 1.0
_PAUSE = 0.02
_REFUSALS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Load:
    """Clients of both ports of one server, each in a thread; they run from `start` to `stop`.

    `clients` is the number of each kind: keeping its HTTP connection, making one for each request,
    sending the body in two parts, and speaking gRPC.
    """

    def __init__(
        self,
        grpc_address: str,
        rest_address: str,
        model: str,
        *,
        image: bytes = b"x",
        clients: int = 2,
    ) -> None:
        self._grpc, self._rest, self._model, self._image = grpc_address, rest_address, model, image
        self._json = json.dumps({"inputs": [as_base64(image)]}).encode()
        self._ended = threading.Event()
        self._counts: Counter[str] = Counter()
        self.lost: list[str] = []
        kinds = (self._keeps, self._reconnects, self._dawdles, self._calls)
        self._threads = [threading.Thread(target=kind) for kind in kinds for _ in range(clients)]

    def start(self) -> None:
        """Start the clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the clients once each has the outcome of its last request."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """Return the number of requests that got the model's answer."""
        return self._counts["answered"]

    @property
    def refused(self) -> int:
        """Return the number of requests that the server refused to take."""
        return self._counts["refused"]

    def _keeps(self) -> None:
        connection = self._connection()
        while not self._ended.is_set():
            if _is_closed(connection):
                connection.close()
            self._post(connection, self._body)
        connection.close()

    def _reconnects(self) -> None:
        while not self._ended.is_set():
            connection = self._connection()
            self._post(connection, self._body)
            connection.close()

    def _dawdles(self) -> None:
        while not self._ended.is_set():
            connection = self._connection()
            self._post(connection, self._in_two_parts)
            connection.close()

    def _calls(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._grpc, options=options) as channel:
            predict = predict_method(channel)
            request = request_of(self._model, self._image)
            while not self._ended.is_set():
                try:
                    predict(request, timeout=_TIMEOUT)
                    self._counts["answered"] += 1
                except grpc.RpcError as error:
                    self._note_refusal(error.code() in _REFUSALS, f"gRPC: {error}")

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._rest, timeout=_TIMEOUT)

    def _post(
        self, connection: http.client.HTTPConnection, body: Callable[[], Iterator[bytes]]
    ) -> None:
        if connection.sock is None and not self._connects(connection):
            return
        path = f"/v1/models/{self._model}:predict"
        try:
            with suppress(OSError):  # an answer may arrive before the body is sent
                connection.request("POST", path, body(), {"Content-Length": str(len(self._json))})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._note_refusal(False, f"HTTP: {type(error).__name__}: {error}")
            return
        if answer.status == http.HTTPStatus.OK:
            self._counts["answered"] += 1
        else:
            was_told = answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE
            self._note_refusal(was_told, f"HTTP {answer.status}: {content!r}")

    def _connects(self, connection: http.client.HTTPConnection) -> bool:
        connection.timeout = _CONNECT_TIMEOUT
        try:
            connection.connect()
        except OSError as error:
            self._note_refusal(True, str(error))
            return False
        connection.sock.settimeout(_TIMEOUT)
        return True

    def _note_refusal(self, was_told: bool, what: str) -> None:
        if was_told:
            self._counts["refused"] += 1
        else:
            self.lost.append(what)
        self._ended.wait(_PAUSE)

    def _body(self) -> Iterator[bytes]:
        yield self._json

    def _in_two_parts(self) -> Iterator[bytes]:
        yield self._json[:5]
        self._ended.wait(_PAUSE)
        yield self._json[5:]


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Return whether the server has closed the idle connection."""
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
