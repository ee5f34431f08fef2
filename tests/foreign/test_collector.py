"""`--otlp` to a collector of another project: Rotel, which passes on what it has understood.

What it sends goes to a receiver of the official messages, which shows what became of it.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlserve.client import Client
from mlserve.testing.processes import stopping, wait_until
from tests.foreign.servers import environment
from tests.harness.collector import Receiver, receiving
from tests.harness.command import Command
from tests.harness.ports import free_ports
from tests.harness.server import EchoServers

pytestmark = [pytest.mark.server, pytest.mark.foreign]

PROTOCOLS = pytest.mark.parametrize("protocol", ["http", "grpc"])
STAGES = {"queue", "decode", "run", "encode"}


@dataclass(frozen=True)
class Rotel:
    """A running collector, and where what it passes on arrives."""

    grpc_port: int
    http_port: int
    behind: Receiver

    def url(self, protocol: str) -> str:
        if protocol == "http":
            return f"http://127.0.0.1:{self.http_port}"
        return f"grpc://127.0.0.1:{self.grpc_port}"


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def rotel(tmp_path_factory: Any) -> Iterator[Rotel]:
    [program] = environment("rotel").glob("lib/python3*/site-packages/rotel/rotel-agent")
    folder: Path = tmp_path_factory.mktemp("rotel")
    grpc_port, http_port = free_ports(2)
    with receiving() as behind, (folder / "log").open("wb") as log:
        argv = [program, "start", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}"]
        argv += ["--otlp-http-endpoint", f"127.0.0.1:{http_port}"]
        argv += ["--otlp-exporter-endpoint", f"http://127.0.0.1:{behind.grpc_port}"]
        argv += ["--otlp-exporter-protocol", "grpc", "--otlp-exporter-compression", "none"]
        with (
            subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder) as process,
            stopping(process),
        ):
            for port in (grpc_port, http_port):
                wait_until(lambda port=port: is_listening(port))
            yield Rotel(grpc_port, http_port, behind)


@PROTOCOLS
def test_a_whole_trace_and_all_metrics_pass(
    cli: Command, photo: Path, rotel: Rotel, tmp_path: Path, protocol: str
) -> None:
    with ExitStack() as stack:
        server = EchoServers(tmp_path, stack)("--otlp", rotel.url(protocol))
        asked = ("predict", photo, "--endpoint", server.grpc, "--model", "m", "--timeout", 20)
        answer = cli.json(*asked, "--otlp", rotel.url(protocol))
        with Client(server.grpc, model="m") as client:
            of_client = client.predict(b"x").trace_id
        before = len(rotel.behind.requests("metrics"))
        server.process.terminate()
        assert server.exit_code() == 0, server.log()
        assert "not sent" not in server.log()

    spans = rotel.behind.trace(answer["trace_id"], 7)
    [call] = [span for span in spans if not span.parent_id]
    [attempt] = [span for span in spans if span.parent_id == call.span_id]
    [served] = [span for span in spans if span.parent_id == attempt.span_id]
    stages = [span for span in spans if span.parent_id == served.span_id]
    assert {stage.name for stage in stages} == STAGES
    assert call.holds(attempt)
    assert attempt.holds(served, 50_000_000)  # the client may be first to note the end
    assert all(served.holds(stage) for stage in stages)
    assert served.resource["service.name"] == "mlserve"
    rotel.behind.trace(of_client or "", 5)

    wait_until(lambda: len(rotel.behind.requests("metrics")) > before)
    metrics = rotel.behind.metrics()
    kind, points = metrics["mlserve_work_total"]
    assert kind == "sum"
    assert {dict(p.labels)["outcome"]: p.value for p in points}["answered"] == 2
    kind, [point] = metrics["mlserve_request_duration_seconds"]
    assert kind == "histogram"
    count, total, bounds, counts = point.value
    assert (count, sum(counts), len(counts)) == (2, 2, len(bounds) + 1)
    assert 0 < total < 60
