"""Model servers in the ways that web servers answer: for ASGI, and for the standard library.

The label of an answer is the digest of the image, so that a mixed-up or damaged body shows. The
model's name says how it is answered: `length`, `chunks`, `end`, `refused` (before the body is
read).

    python -m http1_apps      # the standard library's server; prints where it runs
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOO_LARGE = b'{"error": "larger than 1 MB"}'


def digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()[:16]


def answer_to(body: bytes) -> bytes:
    """The answer to a request in TensorFlow Serving's API, with as much JSON again behind it."""
    (instance,) = json.loads(body)["inputs"]["image"]
    label = digest(base64.b64decode(instance["b64"]))
    outputs = {"outputs": {"labels": [[label]], "scores": [[1.0]]}}
    return json.dumps(outputs).encode() + b" " * len(body)


def pieces_of(answer: bytes) -> list[bytes]:
    """Cut an answer into at most 100 pieces."""
    size = max(99, len(answer) // 99)
    return [answer[at : at + size] for at in range(0, len(answer), size)]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The application for ASGI."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    how = scope["path"].rpartition("/")[2].partition(":")[0]
    if how == "refused":
        await _send(send, 413, TOO_LARGE, [TOO_LARGE])
        return
    parts, more = [], True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    answer = answer_to(b"".join(parts))
    if how == "length":
        await _send(send, 200, answer, [answer])
    else:
        await _send(send, 200, None, pieces_of(answer))


async def _send(
    send: Callable[[dict[str, Any]], Awaitable[None]],
    status: int,
    whole: bytes | None,
    pieces: list[bytes],
) -> None:
    headers = [] if whole is None else [(b"content-length", b"%d" % len(whole))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class Handler(BaseHTTPRequestHandler):
    """The application for the standard library's server, with HTTP/1.1."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        how = self.path.rpartition("/")[2].partition(":")[0]
        if how == "refused":
            self._head(413, {"Content-Length": str(len(TOO_LARGE)), "Connection": "close"})
            self.wfile.write(TOO_LARGE)
            return
        answer = answer_to(self.rfile.read(int(self.headers["Content-Length"])))
        if how == "length":
            self._head(200, {"Content-Length": str(len(answer))})
            self.wfile.write(answer)
        elif how == "chunks":
            self._head(200, {"Transfer-Encoding": "chunked"})
            for piece in pieces_of(answer):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._head(200, {"Connection": "close"})
            self.wfile.write(answer)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        return


class OldHandler(Handler):
    """The same with HTTP/1.0, in which each answer ends with its connection."""

    protocol_version = "HTTP/1.0"


def main() -> None:
    """Run the servers of the standard library, the first with HTTP/1.1."""
    import threading

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (Handler, OldHandler)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"running on http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
