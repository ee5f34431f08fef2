"""Third-party servers simulated in tests: their answers, served over gRPC or REST."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import grpc

MODEL = "stranger"
"""The name of the only model of every such server."""
Method = tuple[Callable[[Any, grpc.ServicerContext], Any], Any]
"""A function that answers a gRPC call with a message, and the class of the request."""
Response = tuple[int, bytes, Mapping[str, str]]
"""Status, body and headers."""
_STATUS = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404}


class Refusal(Exception):
    """An error status: its gRPC code name, its text, extra metadata and the HTTP status."""

    def __init__(
        self, code: str, text: str, *, http: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.code, self.text = code, text
        self.http = http or _STATUS[code]
        self.headers = headers or {}


class Answers(Protocol):
    """The answers of a server. Both methods may raise Refusal, as may what they return."""

    def grpc_method(self, path: str) -> Method | None:
        """Return the handler of that method; None if the server does not have it."""

    def rest_response(self, path: str, body: bytes, headers: Any) -> Response:
        """Return the response to a request; the body of a GET is empty."""


@contextmanager
def over_grpc(answers: Answers) -> Iterator[str]:
    """Serve over gRPC; yield the `host:port`."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Grpc(answers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def over_rest(answers: Answers) -> Iterator[str]:
    """Serve over HTTP; yield the URL."""
    with _Http(("127.0.0.1", 0), _rest_handler(answers)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error.

        And to print a traceback in this thread while pytest writes one in another makes CPython
        3.11 raise SystemError: both parse the source, and its parser counts their depths as one.
        """
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Grpc(grpc.GenericRpcHandler):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = self._answers.grpc_method(details.method)
        if method is None:
            return None
        answer, kind = method

        def call(request: Any, context: grpc.ServicerContext) -> bytes:
            try:
                return bytes(answer(request, context).SerializeToString())
            except Refusal as refusal:
                context.set_trailing_metadata(tuple(refusal.headers.items()))
                context.abort(grpc.StatusCode[refusal.code], refusal.text)

        return grpc.unary_unary_rpc_method_handler(call, kind.FromString)


def _rest_handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Rest(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            try:
                status, body, headers = answers.rest_response(self.path, body, self.headers)
            except Refusal as refusal:
                status, headers = refusal.http, refusal.headers
                body = json.dumps({"error": refusal.text}).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Rest
