"""Clients that are killed, are silent or slow, and many bad images: nobody else minds."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import grpc
import psutil
import pytest

from mlserve.errors import InvalidInput
from mlserve.testing.processes import ServerProcess, wait_until
from mlserve.testing.questions import predict_method

pytestmark = pytest.mark.server

PROTOCOLS = ("grpc", "rest")
PHOTO = b"\xff\xd8\xff a photo"
IDLE, DRIPPING, BAD_IMAGES = 200, 50, 200


def resident(server: ServerProcess) -> int:
    """Bytes of memory."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


def answers(server: ServerProcess) -> None:
    for protocol in PROTOCOLS:
        with server.client(protocol) as client:
            assert client.predict(PHOTO, timeout=10).label == "sorrel"


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_is_killed_gives_its_place_back(
    servers: Any, predicting: Any, slow_request: Any, protocol: str
) -> None:
    """It waits in the only place of the queue, and is never run."""
    server = servers("--threads", "1", "--max-queue", "1")
    with grpc.insecure_channel(server.grpc) as channel:
        running = predict_method(channel).future(slow_request(60), timeout=60)
        wait_until(lambda: "slow" in servers.model.runs())
        asking = predicting(server.endpoint(protocol), "--timeout", "60")
        wait_until(lambda: server.in_flight() == 2)
        asking.kill()
        wait_until(lambda: server.in_flight() == 1)
        servers.model.release()
        running.result()
    before = servers.model.runs()
    answers(server)
    assert len(servers.model.runs()) == len(before) + 2
    assert "Traceback" not in server.log()


def test_idle_and_dripping_connections_take_nothing_from_others(servers: Any) -> None:
    server = servers("--header-timeout", "2")
    answers(server)
    before = resident(server)
    with ExitStack() as held:
        addresses = [server.rest, server.grpc] * (IDLE // 2)
        for address in addresses:
            held.enter_context(connect(address))
        dripping = [held.enter_context(connect(server.rest)) for _ in range(DRIPPING)]
        for connection in dripping:
            connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost:")
        answers(server)
        for connection in dripping:
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        answers(server)
    answers(server)
    assert resident(server) < before * 1.1
    assert " ERROR " not in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_bad_images_cost_nothing(servers: Any, protocol: str) -> None:
    server = servers()
    with server.client(protocol) as client:
        for _ in range(50):
            with pytest.raises(InvalidInput):
                client.predict(b"bad", timeout=10)
        before = resident(server)
        for _ in range(BAD_IMAGES):
            with pytest.raises(InvalidInput):
                client.predict(b"bad", timeout=10)
    answers(server)
    assert resident(server) < before * 1.1
    assert " ERROR " not in server.log()
