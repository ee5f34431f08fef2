"""A server that may have few open files, and more clients than that: it answers, and says so."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from mlserve.artifact import Artifact
from mlserve.testing.processes import launched

pytestmark = pytest.mark.server

PHOTO = b"\xff\xd8\xff a photo"
MOST_LOG = 4000
"""Bytes that the log of a short life may have: the start alone takes about 1,000."""


@pytest.fixture
def few_files(servers: Any, tmp_path: Path) -> Any:
    """Starts a server that may have 128 open files and cannot raise that."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nulimit -n 128\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    servers.model.put(1)

    def start(*options: str) -> Any:
        artifact = Artifact.open(servers.model.base_path, "m", 1)
        server = launched("echo", artifact, *options, python=str(script))
        return servers.stack.enter_context(server)

    return start


@contextmanager
def idle_clients(address: str, count: int, first_words: bytes = b"") -> Iterator[None]:
    host, _, port = address.rpartition(":")
    with ExitStack() as held:
        for _ in range(count):
            client = socket.create_connection((host, int(port)), timeout=20)
            held.enter_context(client)
            client.sendall(first_words)
        yield


def test_idle_http_clients_leave_room_for_others(few_files: Any) -> None:
    server = few_files()
    assert re.search(
        r"allows this process 128 open files: it accepts \d+ connections", server.log()
    )
    with idle_clients(server.rest, 300):
        for protocol in ("rest", "grpc"):
            with server.client(protocol) as client:
                assert client.predict(PHOTO, timeout=10).label == "sorrel"
        described = httpx.get(f"http://{server.rest}/v2", timeout=10)
        assert '"max_connections":40' in described.text.replace(" ", "")
    assert len(server.log()) < MOST_LOG


def test_idle_grpc_clients_leave_room_for_http(few_files: Any) -> None:
    server = few_files()
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    with idle_clients(server.grpc, 300, hello), server.client("rest") as client:
        assert client.predict(PHOTO, timeout=10).label == "sorrel"
    assert len(server.log()) < MOST_LOG


def test_clients_that_never_finish_a_handshake_leave_room_for_others(
    few_files: Any, tmp_path: Path
) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    server = few_files(f"--tls-cert={cert}", f"--tls-key={key}")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    # A few at a time are given up after a second each: 150 are more than the files that there are.
    with idle_clients(server.rest, 150), httpx.Client(verify=context, timeout=20) as client:
        body = {"inputs": ["x"]}
        answer = client.post(f"https://{server.rest}/v1/models/m:predict", json=body)
    assert answer.json() == {"outputs": ["sorrel"]}
    assert len(server.log()) < MOST_LOG


def test_a_line_that_repeats_is_counted(servers: Any) -> None:
    """Each of these calls logs the same traceback."""
    server = servers()
    body = {"signature_name": "crash", "inputs": {"seconds": [1.0]}}
    with httpx.Client(timeout=20) as client:
        for _ in range(200):
            answer = client.post(f"http://{server.rest}/v1/models/m:predict", json=body)
            assert answer.status_code == 500
    server.process.terminate()
    server.process.wait(60)
    told = server.log().count("RuntimeError: a secret of the server\n")
    counts = re.findall(r" (\d+) more lines like this in the last 10 s: an unexp", server.log())
    assert told + sum(map(int, counts)) == 200
    assert told == 10 * len(counts)
