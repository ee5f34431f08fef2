"""UNIX sockets beside both ports: asked by mlserve's client and by others, over every protocol."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from mlserve.bench.load import ClosedLoop, Window, run_load
from mlserve.bench.questions import ImageQuestion, target_for
from mlserve.client import Client
from mlserve.client.endpoint import Api, Connection
from mlserve.deadline import Deadline
from mlserve.errors import Unavailable, UsageError
from mlserve.server.listen.ports import GrpcPort, RestPort
from mlserve.settings import ServerSettings
from tests.harness.echo import PHOTO
from tests.harness.server import serving

NOTHING: Any = None
APIS: tuple[Api, ...] = ("tfs", "oip")


@pytest.mark.server
def test_a_server_is_asked_over_its_sockets(tmp_path: Path) -> None:
    paths = tmp_path / "grpc.sock", tmp_path / "rest.sock"
    with socket.socket(socket.AF_UNIX) as killed:  # leaves its file behind
        killed.bind(str(paths[0]))
    flags = ("--grpc-socket", str(paths[0]), "--rest-socket", str(paths[1]))
    with serving(tmp_path, *flags) as server:
        _answers_everybody(server.model, *map(str, paths))
        _bears_loads(server.process.pid, f"unix:{paths[0]}", f"http+unix:{paths[1]}")
        assert all(stat.S_ISSOCK(path.stat().st_mode) for path in paths)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
    assert not any(path.exists() for path in paths)
    with Client(f"unix:{paths[0]}", model="m") as client, pytest.raises(Unavailable) as gone:
        client.predict(PHOTO, timeout=5)
    assert f"unix:{paths[0]}" in gone.value.message


def _bears_loads(pid: int, *endpoints: str) -> None:
    for endpoint in endpoints:
        due = Deadline.after(20)
        question, connection = ImageQuestion([PHOTO]), Connection.to(endpoint)
        target = asyncio.run(target_for("t", connection, question, 10.0, due))
        tally = run_load(target, ClosedLoop(1), Window(0.5, 0.0, 10.0))
        assert tally.in_time == tally.requests > 0
        assert pid in target.pids
        assert tally.server_cpu is not None


def _answers_everybody(model: str, for_grpc: str, for_rest: str) -> None:
    for endpoint in (f"unix:{for_grpc}", f"unix://{for_grpc}", f"http+unix://{for_rest}"):
        for api in APIS:
            with Client(endpoint, model=model, api=api) as client:
                assert client.predict(PHOTO, timeout=10).label == "sorrel"
    with Client(f"unix:{for_rest}", model=model) as client, pytest.raises(UsageError) as wrong:
        client.predict(PHOTO, timeout=10)
    assert f"http+unix:{for_rest}" in (wrong.value.hint or "")
    with grpc.insecure_channel(f"unix:{for_grpc}") as channel:
        grpc.channel_ready_future(channel).result(10)
    with httpx.Client(transport=httpx.HTTPTransport(uds=for_rest)) as http:
        assert http.get("http://localhost/v2/health/ready").status_code == 200


def test_a_path_that_is_in_use_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("a file of the user's")
    for port, setting in ((GrpcPort, "grpc_socket"), (RestPort, "rest_socket")):
        settings = ServerSettings(**{setting: path})
        more = (NOTHING, NOTHING) if port is GrpcPort else ()
        with pytest.raises(Unavailable) as refused:
            port("127.0.0.1", 0, *more, settings)  # type: ignore[arg-type]
        assert f"({'--' + setting.replace('_', '-')})" in refused.value.message
        assert f"remove {path}" in (refused.value.hint or "")
    assert path.read_text() == "a file of the user's"
