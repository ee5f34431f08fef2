"""The client's spans: the program's own OpenTelemetry, the command's, and none without either."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.collector import ReceivedSpan, Receiver, receiving
from tests.harness.command import Command
from tests.harness.ports import free_ports
from tests.harness.server import EchoServer, serving

pytestmark = pytest.mark.server

STAGES = ["queue", "decode", "run", "encode"]
NEARLY = 50_000_000
"""Nanoseconds: the client may have its answer before the server has noted that it was sent."""
PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from mlserve import Client, MlserveError, Retries

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
endpoint, parent = sys.argv[1], sys.argv[2] or None
with trace.get_tracer("line").start_as_current_span("check a part") as span:
    with Client(endpoint, model="m", traceparent=parent) as client:
        print(client.predict(b"x").trace_id)
        try:
            client.predict(b"bad")
        except MlserveError as error:
            print(error.details["trace_id"])
provider.shutdown()
"""
WITHOUT = """
import sys
import opentelemetry.trace
from mlserve import Client

with Client(sys.argv[1], model="m") as client:
    print(client.predict(b"x").label)
assert "opentelemetry.sdk" not in sys.modules
"""
UNTOUCHED = """
import sys
from mlserve import Client

with Client(sys.argv[1], model="m") as client:
    print(client.predict(b"x").label)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any, receiver: Receiver) -> Iterator[EchoServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with serving(tmp_path_factory.mktemp("server"), "--otlp", receiver.http) as found:
            yield found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Any:
    """`run(program, *arguments)` returns the lines that a program of its own prints."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http)

    def to_its_end(program: str, *arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.split()

    return to_its_end


def below(spans: list[ReceivedSpan], parent: ReceivedSpan) -> list[ReceivedSpan]:
    return [span for span in spans if span.parent_id == parent.span_id]


def assert_whole(spans: list[ReceivedSpan], call: ReceivedSpan, protocol: str) -> None:
    """From the call through its attempt and the server's span to the stage that ends last."""
    [attempt] = below(spans, call)
    [served] = below(spans, attempt)
    stages = below(spans, served)
    assert (call.kind, attempt.kind, served.kind) == ("INTERNAL", "CLIENT", "SERVER")
    assert [stage.name for stage in stages] == STAGES
    assert call.holds(attempt)
    assert attempt.holds(served, NEARLY)
    assert all(served.holds(stage) for stage in stages)
    assert len({span.trace_id for span in (call, attempt, served, *stages)}) == 1
    if protocol == "grpc":
        assert attempt.name == served.name == "tensorflow.serving.PredictionService/Predict"
        assert attempt.attributes["rpc.response.status_code"] == "OK"
    else:
        assert attempt.attributes["http.response.status_code"] == 200
        assert attempt.attributes["url.full"].endswith("/v1/models/m:predict")
    assert call.attributes["mlserve.request_id"] == served.attributes["mlserve.request_id"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_programs_own_provider(
    server: EchoServer, receiver: Receiver, run: Any, protocol: str
) -> None:
    trace_id, of_failure = run(PROGRAM, server.endpoint(protocol), "")
    assert trace_id == of_failure

    # The program's span; of each call its own, the attempt, the server's and the stages.
    status = 1 if protocol == "rest" else 0  # over REST, the first call asks for the status first
    spans = receiver.trace(trace_id, 1 + 7 + 6 + status)
    [program] = [span for span in spans if span.name == "check a part"]
    first, second = below(spans, program)
    assert (first.name, second.name) == ("predict m", "predict m")
    assert not first.is_error
    if protocol == "grpc":
        assert_whole(spans, first, protocol)
    assert second.is_error
    code = {"grpc": "invalid_input", "rest": "not_an_image"}[protocol]
    assert second.attributes["error.type"] == code
    [attempt] = below(spans, second)
    assert attempt.is_error
    [served] = below(spans, attempt)
    assert [stage.name for stage in below(spans, served)] == STAGES[:-1]


def test_a_traceparent_goes_before_the_programs_span(
    server: EchoServer, receiver: Receiver, run: Any
) -> None:
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    found, _ = run(PROGRAM, server.grpc, f"00-{trace}-{caller}-01")
    assert found == trace
    spans = receiver.trace(trace, 13)
    assert {span.name for span in spans if span.parent_id == caller} == {"predict m"}


def test_without_a_provider_nothing_is_recorded(server: EchoServer, run: Any) -> None:
    assert run(WITHOUT, server.grpc) == ["sorrel"]
    assert run(UNTOUCHED, server.grpc) == ["sorrel"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_command(
    cli: Command, photo: Path, server: EchoServer, receiver: Receiver, protocol: str
) -> None:
    asked = ("predict", photo, "--endpoint", server.endpoint(protocol), "--model", "m")
    answer = cli.json(*asked, "--api", "tfs", "--otlp", receiver.url("grpc"), "--timeout", 20)

    spans = receiver.trace(answer["trace_id"], 7)
    [call] = [span for span in spans if span.parent_id == ""]
    assert call.name == "predict m"
    assert call.resource["service.name"] == "mlserve-client"
    assert_whole(spans, call, protocol)


def test_a_collector_that_is_away_does_not_keep_the_command(
    cli: Command, photo: Path, server: EchoServer
) -> None:
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    done = cli("predict", photo, "--endpoint", server.grpc, "--otlp", url, "--timeout", 20)
    assert (done.returncode, done.stdout) == (0, "sorrel\n")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"warning: the spans were not sent to {url}: ")


def test_a_part_that_is_rejected_is_told(cli: Command, photo: Path, server: EchoServer) -> None:
    with receiving() as receiver:
        receiver.reject(1, "too old")
        asked = ("predict", photo, "--endpoint", server.grpc, "--timeout", 20)
        done = cli(*asked, "--otlp", receiver.http)
        assert (done.returncode, done.stdout) == (0, "sorrel\n")
        url = receiver.http
    assert done.stderr == (
        f"warning: the spans were not sent to {url}: it rejects 1 of them: too old\n"
    )
