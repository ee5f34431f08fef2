"""What a REST request may cost: its memory is bounded, counted, and given back."""

from __future__ import annotations

import gzip
import json
import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.testing.processes import wait_until
from tests.harness.raw_http import everything_from
from tests.harness.server import serving

pytestmark = pytest.mark.server

MB = 2**20
LARGEST, BOUND = 16 * MB, 48 * MB
PREDICT, INFER = "/v1/models/m:predict", "/v2/models/m/infer"
PATIENT = {"X-Request-Timeout-Ms": "600000"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    flags = f"--max-request-bytes={LARGEST}", f"--max-body-memory={BOUND}", "--threads=2"
    with serving(tmp_path_factory.mktemp("costs"), *flags) as server:
        yield server


@pytest.fixture
def within_bound(server: Any) -> Iterator[None]:
    """Checks that the test has cost twice the bound at most, and that all is given back."""
    process = Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")  # the peak so far is forgotten
    before = _memory(process, "VmRSS")
    yield
    assert _memory(process, "VmHWM") - before < 2 * BOUND
    wait_until(lambda: held(server) == 0)
    assert server.answers()


def _memory(process: Path, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", (process / "status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def held(server: Any) -> int:
    """Bytes that bodies hold in the server."""
    page = httpx.get(f"http://{server.rest}/metrics").text
    found = re.search(r"^mlserve_body_bytes (\S+)$", page, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def post(server: Any, body: bytes, path: str = PREDICT, **headers: str) -> httpx.Response:
    url = f"http://{server.rest}{path}"
    return httpx.post(url, content=body, headers=PATIENT | headers, timeout=120)


def post_gzip(server: Any, body: bytes, path: str = PREDICT) -> httpx.Response:
    return post(server, gzip.compress(body, 6), path, **{"Content-Encoding": "gzip"})


def identity(dtype: str, value: bytes) -> bytes:
    return b'{"signature_name": "identity_%b", "inputs": %b}' % (dtype.encode(), value)


def filled(before: bytes, item: bytes, after: bytes, size: int = 15 * MB) -> bytes:
    return before + item * (size // len(item)) + after


def rows(item: bytes, size: int = 15 * MB) -> bytes:
    return filled(b'{"instances": [', item, item[:-1] + b"]}", size)


class Upload:
    """A request whose body does not end."""

    def __init__(self, server: Any, sent: int, stack: ExitStack) -> None:
        host, _, port = server.rest.rpartition(":")
        self.socket = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
        lines = f"Host: x\r\nX-Request-Timeout-Ms: 600000\r\nContent-Length: {LARGEST}\r\n"
        self.send(f"POST {PREDICT} HTTP/1.1\r\n{lines}\r\n".encode() + b" " * sent)

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # it may be refused in its midst
            self.socket.sendall(data)

    def answer(self) -> bytes:
        """What the server says until it closes."""
        heard: bytes = everything_from(self.socket)
        return heard


@pytest.mark.usefixtures("within_bound")
class TestMemory:
    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            (rows(b"1,", 4 * MB), 413, "first dimension of"),
            (rows(b"[],", 4 * MB), 413, "first dimension of"),
            (rows(b"1,"), 413, "--max-body-memory"),
            (rows(b'"ab",'), 413, "--max-body-memory"),
            (rows(b"{},"), 413, "--max-body-memory"),
            (rows(b'{"x":[]},'), 413, "--max-body-memory"),
            (filled(b'{"signature_name": "', b"n", b'", "inputs": [1]}'), 400, '"nnnnn'),
            (filled(b'{"', b"n", b'": 1, "inputs": [1]}'), 400, "a name of"),
            (identity("float32", filled(b"[", b"1,", b"x]", 4 * MB)), 400, "JSON Parse error"),
            (identity("float32", filled(b"[", b"1.25,", b"", 8 * MB)), 400, "JSON Parse error"),
            (identity("bytes", filled(b'["', rb"\n", b'"]', 10 * MB)), 200, ""),
            (identity("bytes", filled('["😀'.encode(), b"a", b'"]')), 413, "--max-body-memory"),
            (b'{"inputs":' + b" " * 10 * MB + b"[1]}", 400, "where bytes is expected"),
            (b"[" * 15 * MB, 400, "JSON"),
            (b" " * 17 * MB, 413, "when decompressed"),
        ],
        ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
    )
    def test_of_what_is_small_while_it_is_packed(
        self, server: Any, body: bytes, status: int, words: str
    ) -> None:
        answer = post_gzip(server, body)
        assert answer.status_code == status
        if status != 200:
            assert words in answer.json()["error"]
            assert len(answer.text) < 1200

    def test_of_strings_without_characters(self, server: Any) -> None:
        count = 3 * MB
        sent = {"name": "x", "datatype": "BYTES", "shape": [count]}
        sent["parameters"] = {"binary_data_size": 4 * count}
        head = json.dumps({"parameters": {"signature": "identity_bytes"}, "inputs": [sent]})
        length = {"Inference-Header-Content-Length": str(len(head))}
        answer = post(server, head.encode() + bytes(4 * count), INFER, **length)
        assert answer.status_code == 413
        assert "--max-body-memory" in answer.json()["error"]

    def test_of_a_form_of_many_files(self, server: Any) -> None:
        file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n'
        file += b"f" * 20_000 + b"\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = post(server, file * 700 + b"--b--\r\n", **kind)
        assert answer.json() == {"predictions": ["sorrel"] * 700}

    def test_of_uploads_that_lack_their_end(self, server: Any) -> None:
        """What has stalled gives way to others, who are answered, and its connection is closed."""
        with ExitStack() as stack:
            stalled = [Upload(server, 12 * MB, stack) for _ in range(3)]
            wait_until(lambda: held(server) == 3 * 12 * MB)
            body = identity("bytes", filled(b'["', b"a", b'"]', 14 * MB))
            answer = wait_until(lambda: _unless_refused(post(server, body[: 14 * MB] + b'"]}')))
            assert answer.status_code == 200
            heard = stalled[0].answer()
            assert heard.startswith(b"HTTP/1.1 429 ")
            assert (
                b"the body arrived too slowly, so its memory was given to other requests" in heard
            )
            assert b"\r\nconnection: close\r\n" in heard.lower()

    def test_of_more_uploads_than_there_is_room_for(self, server: Any) -> None:
        with ExitStack() as stack:
            uploads = [Upload(server, 15 * MB, stack).socket for _ in range(12)]
            assert held(server) <= BOUND
            wait_until(lambda: len(select.select(uploads, [], [], 0)[0]) >= 12 - BOUND // (15 * MB))
            for upload in select.select(uploads, [], [], 0)[0]:
                with suppress(ConnectionResetError):
                    assert upload.recv(12) in (b"", b"HTTP/1.1 429")

    def test_of_a_body_that_comes_in_single_bytes(self, server: Any) -> None:
        body = json.dumps({"inputs": ["x"]}).ljust(5000).encode()
        answer = httpx.post(
            f"http://{server.rest}{PREDICT}", content=(body[i : i + 1] for i in range(len(body)))
        )
        assert answer.json() == {"outputs": ["sorrel"]}

    def test_of_one_whose_client_leaves_while_it_is_read(self, server: Any) -> None:
        body = identity("float32", filled(b"[", b"0.12345678,", b"1]", 8 * MB))
        with ExitStack() as stack:
            host, _, port = server.rest.rpartition(":")
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)


def _unless_refused(answer: httpx.Response) -> httpx.Response | None:
    return None if answer.status_code == 429 else answer


class TestHeaders:
    """They decide before a body is taken."""

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v1/models/none:predict", 404),
            ("/v1/models/m/versions/9:predict", 404),
            ("/v2/models/none/infer", 404),
            ("/v2/models/m/versions/9/infer", 404),
            ("/v2/health/live", 405),
            ("/metrics", 405),
            ("/v2/repository/index", 413),
        ],
    )
    def test_without_a_byte_of_the_body(self, server: Any, path: str, status: int) -> None:
        with ExitStack() as stack:
            host, _, port = server.rest.rpartition(":")
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            lines = "Host: x\r\nContent-Length: 1000000\r\nX-Request-Timeout-Ms: 60000\r\n"
            client.sendall(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 %d" % status

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("Content-Length", PREDICT),
            ("Inference-Header-Content-Length", INFER),
            ("X-Request-Timeout-Ms", INFER),
            ("X-Envoy-Expected-Rq-Timeout-Ms", PREDICT),
        ],
    )
    def test_of_ten_thousand_digits(self, server: Any, name: str, path: str) -> None:
        body = b"{}"
        with ExitStack() as stack:
            host, _, port = server.rest.rpartition(":")
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            length = "" if name == "Content-Length" else f"Content-Length: {len(body)}\r\n"
            lines = f"Host: x\r\nConnection: close\r\n{length}{name}: {'9' * 10_000}\r\n"
            client.sendall(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            heard = everything_from(client)
        assert heard[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413")
        assert len(heard) < 1000
        assert "Traceback" not in server.log()

    def test_a_version_of_ten_thousand_digits(self, server: Any) -> None:
        for model in ("/v1/models/m", "/v2/models/m"):
            path = f"{model}/versions/{'9' * 10_000}"
            answer = httpx.get(f"http://{server.rest}{path}")
            assert answer.status_code in (400, 404)
        assert "Traceback" not in server.log()
