"""Collectors that are away, hang, say no or are none; and variables that cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve.errors import ExitCode
from mlserve.testing.processes import wait_until
from tests.harness.collector import receiving
from tests.harness.echo import EchoModel
from tests.harness.exporting import (
    IMAGE,
    QUICK,
    SOON,
    Start,
    end,
    fresh_trace,
    scraped,
    traceparent,
)
from tests.harness.ports import free_ports
from tests.harness.server import EchoServer, running

pytestmark = pytest.mark.server


def test_a_collector_that_is_away_costs_nothing_but_a_line(
    start_with: Start,
) -> None:
    [port] = free_ports(1)
    server = start_with(
        *("--otlp", f"http://127.0.0.1:{port}"), **SOON, OTEL_EXPORTER_OTLP_TIMEOUT="2.5"
    )
    assert server.post(IMAGE).status_code == 200

    def not_sent() -> float:
        return scraped(server, "mlserve_otlp_spans_lost_total", reason="not_sent")

    wait_until(lambda: not_sent() == 5)
    assert server.post(IMAGE).status_code == 200
    wait_until(lambda: not_sent() == 10)
    assert scraped(server, "mlserve_otlp_exports_failed_total", signal="traces") == 2
    lines = [line for line in server.log().splitlines() if "otlp: " in line]
    assert len(lines) == 2, lines
    assert f"otlp: 5 spans not sent to http://127.0.0.1:{port}: " in lines[1]
    assert " WARNING " in lines[1]
    assert "refused" in lines[1]

    with receiving(port) as receiver:
        trace = fresh_trace(8)
        server.post(IMAGE, headers=traceparent(trace=trace))
        receiver.trace(trace, 5)
        wait_until(lambda: "spans reach" in server.log())
    assert end(server) < QUICK


def test_a_collector_that_hangs_takes_places_in_the_queue_and_no_time(
    start_with: Start,
) -> None:
    with receiving() as receiver:
        receiver.is_open.clear()
        server = start_with("--otlp", receiver.http, **SOON, OTEL_BSP_MAX_QUEUE_SIZE="25")
        for _ in range(40):
            assert server.post(IMAGE).status_code == 200

        def lost() -> float:
            return scraped(server, "mlserve_otlp_spans_lost_total", reason="queue_full")

        assert lost() > 0
        assert lost() % 5 == 0
        took = end(server)
    assert took < QUICK
    assert "stopping with" in server.log()
    assert "spans not sent to" in server.log()


def test_a_collector_that_says_no(start_with: Start) -> None:
    with receiving() as receiver:
        receiver.status = 403
        server = start_with("--otlp", receiver.http, **SOON)
        server.post(IMAGE)
        wait_until(lambda: "otlp: 5 spans not sent" in server.log())
        assert "403" in server.log()
        assert end(server) < QUICK


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_part_that_the_collector_rejects_is_lost(start_with: Start, protocol: str) -> None:
    with receiving() as receiver:
        receiver.reject(2, "no attribute may be called mlserve.token")
        server = start_with("--otlp", receiver.url(protocol), **SOON)
        server.post(IMAGE)
        wait_until(lambda: scraped(server, "mlserve_otlp_spans_sent_total") == 3)
        assert scraped(server, "mlserve_otlp_spans_lost_total", reason="rejected") == 2
        assert scraped(server, "mlserve_otlp_exports_failed_total") == 0
        assert "otlp: 2 spans not sent to" in server.log()
        assert "it rejects 2 of them: no attribute may be called mlserve.token" in server.log()
        receiver.reject(0, "soon this needs a token")
        assert end(server) < QUICK
    assert "otlp: metrics were taken by" in server.log()
    assert "which says: soon this needs a token" in server.log()


@pytest.mark.parametrize(
    ("status", "more", "answer", "why"),
    [
        (302, {"location": "/login"}, b"", "it answers 302, go to /login"),
        (200, {"content-type": "text/html; charset=utf-8"}, b"<p>It works!", "a web page answers"),
        (200, {"content-type": "application/x-protobuf"}, b"\xff" * 9, "is not OTLP"),
    ],
)
def test_what_is_no_collector_has_taken_nothing(
    start_with: Start, status: int, more: dict[str, str], answer: bytes, why: str
) -> None:
    with receiving() as receiver:
        receiver.status, receiver.more = status, more
        receiver.answers = dict.fromkeys(("traces", "metrics"), answer)
        server = start_with("--otlp", receiver.http, **SOON)
        server.post(IMAGE)
        wait_until(lambda: scraped(server, "mlserve_otlp_spans_lost_total", reason="not_sent") == 5)
        assert why in server.log()
        assert scraped(server, "mlserve_otlp_spans_sent_total") == 0
        assert end(server) < QUICK


def test_an_answer_without_an_end_is_read_to_no_end(start_with: Start) -> None:
    """One connection serves all exports, until an answer is larger than any collector's."""
    with receiving() as receiver:
        server = start_with("--otlp", receiver.http, **SOON, OTEL_METRICS_EXPORTER="none")
        for number in range(20, 23):
            server.post(IMAGE, headers=traceparent(trace=fresh_trace(number)))
            receiver.trace(fresh_trace(number), 5)
        assert len(receiver.peers) == 1
        receiver.more = {"content-type": "text/plain"}
        receiver.answers["traces"] = b"x" * 2**26
        before = resident_bytes(server)
        server.post(IMAGE)
        wait_until(lambda: scraped(server, "mlserve_otlp_spans_sent_total") == 20)
        assert resident_bytes(server) < before + 2**24
        assert end(server) < QUICK


def resident_bytes(server: EchoServer) -> float:
    return scraped(server, "process_resident_memory_bytes")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer s3cret", "header 1 in"),
        ("OTEL_EXPORTER_OTLP_HEADERS", 'a=1,authorization=Bearer "s3cret"', "header 2 in"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=s3cret%0Ax", "header 1 in"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "'http/json', which mlserve does not speak"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "cannot be made"),
    ],
)
def test_variables_that_cannot_hold_are_refused_without_what_is_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    url = "http" if variable.endswith("PROTOCOL") else "grpc"
    model = EchoModel(tmp_path / "m")
    model.put(1)
    with running(model, tmp_path / "log", "--otlp", f"{url}://127.0.0.1:4319") as server:
        assert server.exit_code() == ExitCode.USAGE
    assert said in server.log()
    assert "hint: " in server.log()
    assert "Traceback" not in server.log()
    assert "s3cret" not in server.log()


def test_numbers_that_are_none_are_told_and_left_out(start_with: Start) -> None:
    with receiving() as receiver:
        server = start_with(
            *("--otlp", receiver.http),
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_BSP_MAX_QUEUE_SIZE="inf",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="0.5",
            OTEL_METRIC_EXPORT_INTERVAL="1e30",
        )
        server.post(IMAGE, headers=traceparent(trace=fresh_trace(30)))
        receiver.trace(fresh_trace(30), 5)
        assert "OTEL_BSP_MAX_QUEUE_SIZE is 'inf', not a number from 1 to" in server.log()
        assert "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is '0.5'" in server.log()
        assert end(server) < QUICK
    assert receiver.requests("metrics")
