"""Which processes are the server's, by who listens on its port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mlserve.bench.server_process import listeners
from mlserve.client.endpoint import Endpoint

_LISTENS = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())  # PR_SET_NAME
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def test_the_process_that_listens_is_the_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert listeners(Endpoint.parse(f"127.0.0.1:{port}", "grpc")) == (os.getpid(),)
    assert listeners(Endpoint.parse(f"127.0.0.1:{port}", "grpc")) == ()


@pytest.mark.parametrize(("name", "is_server"), [("docker-proxy", False), ("envoy", True)])
def test_what_only_passes_connections_on_is_not(name: str, is_server: bool) -> None:
    command = [sys.executable, "-c", _LISTENS, name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = listeners(Endpoint.parse(f"http://127.0.0.1:{port}", "rest"))
        assert found == ((process.pid,) if is_server else ())
