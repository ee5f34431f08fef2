"""An HTTP server of files that answers as each file says: ranges, redirects, breaks, refusals."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class File:
    """A file of the server. `breaks` says after how many bytes each of the next answers ends.

    `headers` are sent with every answer. `status` other than 200 is an answer without the file.
    `takes_ranges` False sends the whole file for every range; `has_length` False sends no length.
    """

    data: bytes = b""
    etag: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    takes_ranges: bool = True
    has_length: bool = True


@dataclass
class FileServer:
    """The files by path, with query, and what was asked for."""

    url: str
    files: dict[str, File] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(self, path: str, data: bytes = b"", **how: Any) -> str:
        """Serve a file and return its address."""
        self.files[path] = File(data, **how)
        return self.url + path

    @property
    def last(self) -> dict[str, str]:
        """Return the headers of the last request, their names in small letters."""
        return self.requests[-1][1]


class _Handler(BaseHTTPRequestHandler):
    served: FileServer

    def do_GET(self) -> None:
        names = {name.lower(): value for name, value in self.headers.items()}
        self.served.requests.append((self.path, names))
        file = self.served.files.get(self.path)
        if file is None or file.status != 200:
            self._answer(404 if file is None else file.status, file or File())
        elif file.etag and names.get("if-none-match") == file.etag:
            self._answer(304, file)
        else:
            self._send(file, names)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, file: File, names: dict[str, str]) -> None:
        wanted = names.get("range", "")
        is_same = names.get("if-range") in {None, file.etag}
        if not (wanted and file.takes_ranges and is_same):
            self._answer(200, file, file.data)
            return
        begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(file.data):
            self._answer(416, file)
            return
        place = f"bytes {begin}-{len(file.data) - 1}/{len(file.data)}"
        self._answer(206, file, file.data[begin:], {"Content-Range": place})

    def _answer(
        self, status: int, file: File, data: bytes = b"", more: dict[str, str] | None = None
    ) -> None:
        self.close_connection = True
        self.send_response(status)
        etag = {"ETag": file.etag} if file.etag else {}
        length = {"Content-Length": str(len(data))} if file.has_length else {}
        for name, value in {**length, **etag, **file.headers, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: file.breaks.pop(0)] if file.breaks else data)

    def log_message(self, *args: Any) -> None:
        """Keep the output of the tests clean."""


@contextmanager
def serving_files(context: ssl.SSLContext | None = None) -> Iterator[FileServer]:
    """Run a server on a port of the system; with a context, over TLS."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    handler.served = FileServer(f"{scheme}://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield handler.served  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
