"""`--otlp`, from requests to real servers to what a receiver of OTLP gets over real sockets."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlserve import __version__
from mlserve.client import Client, Retries
from mlserve.errors import ExitCode, InvalidInput
from mlserve.testing.processes import wait_until
from tests.harness.collector import ReceivedSpan, Receiver, receiving
from tests.harness.echo import EchoModel
from tests.harness.ports import free_ports
from tests.harness.server import EchoServer, EchoServers, running

pytestmark = pytest.mark.server

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["queue", "decode", "run", "encode"]
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
"""No span is sent before the end."""
QUICK = 9
"""Seconds in which a server ends that its collector does not hold: the drain has ten."""
IMAGE = {"inputs": ["x"]}
OWN_SERIES = re.compile("mlserve_(?!otlp_|requests|config)")
Start = Callable[..., EchoServer]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any, receiver: Receiver) -> Iterator[EchoServer]:
    """A server that sends spans over HTTP, soon after each request."""
    folder = tmp_path_factory.mktemp("otlp")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name, value in (SOON | {"OTEL_RESOURCE_ATTRIBUTES": "deployment.site=hall-3"}).items():
            patch.setenv(name, value)
        flags = ("--otlp", receiver.http, "--log-format", "json")
        yield EchoServers(folder, stack)(*flags, delay=0.02)


@pytest.fixture
def start_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start_with(*flags, NAME=value, ...)` starts a server with these variables."""
    with ExitStack() as stack:
        servers = EchoServers(tmp_path, stack)

        def start(*flags: str, **variables: str) -> EchoServer:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            return servers(*flags)

        yield start


def traceparent(flags: str = "01", trace: str = TRACE) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-{flags}"}


def fresh_trace(number: int) -> str:
    return f"{number:032x}"


def end(server: EchoServer) -> float:
    """Tell the server to stop; return the seconds that it takes."""
    began = time.monotonic()
    server.process.terminate()
    assert server.exit_code() == 0, server.log()
    return time.monotonic() - began


def logged(server: EchoServer, trace_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log().splitlines()]
        return [line for line in lines if line.get("trace_id") == trace_id]

    (line,) = wait_until(found)
    return line


def scraped(server: EchoServer, name: str, **labels: str) -> float:
    page = httpx.get(f"http://{server.rest}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def assert_nested(whole: ReceivedSpan, stages: list[ReceivedSpan]) -> None:
    """Each stage is a child within the whole, and begins when the one before it has ended."""
    assert all(whole.holds(stage) and stage.parent_id == whole.span_id for stage in stages)
    for before, after in pairwise(stages):
        assert before.end <= after.start


def test_a_request_over_rest(server: EchoServer, receiver: Receiver) -> None:
    before = time.time_ns()
    headers = traceparent() | {"tracestate": "vendor=x7", "x-request-id": "part-7"}
    answer = server.post(IMAGE, headers=headers)
    after = time.time_ns()

    assert answer.status_code == 200
    whole, *stages = receiver.trace(TRACE, 5)
    assert (whole.name, whole.kind) == ("POST /v1/models/{model}:predict", "SERVER")
    assert (whole.parent_id, whole.state) == (CALLER, "vendor=x7")
    assert answer.headers["traceparent"] == f"00-{TRACE}-{whole.span_id}-01"
    assert [stage.name for stage in stages] == STAGES
    assert {stage.kind for stage in stages} == {"INTERNAL"}
    assert before <= whole.start
    assert whole.end <= after + 50_000_000  # the answer may be read before its end is noted
    assert_nested(whole, stages)
    run = stages[2]
    assert run.end - run.start >= 20_000_000

    line = logged(server, TRACE)
    assert (line["span_id"], line["parent_id"]) == (whole.span_id, CALLER)
    for stage in stages:
        assert line[f"{stage.name}_ms"] == pytest.approx((stage.end - stage.start) / 1e6, abs=0.01)
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/models/{model}:predict",
        "http.response.status_code": 200,
        "url.path": "/v1/models/m:predict",
        "url.scheme": "http",
        "mlserve.request_id": "part-7",
        "mlserve.code": "ok",
        "mlserve.api": "tfs",
        "mlserve.model": "m",
        "mlserve.version": 1,
        "mlserve.signature": "serving_default",
    }
    assert expected.items() <= whole.attributes.items()
    assert "error.type" not in whole.attributes
    assert whole.scope == "mlserve"
    resource = {"service.name": "mlserve", "service.version": __version__}
    assert (resource | {"deployment.site": "hall-3"}).items() <= whole.resource.items()
    assert re.fullmatch("[0-9a-f-]{36}", whole.resource["service.instance.id"])


def test_what_fails_and_what_a_caller_got_wrong(server: EchoServer, receiver: Receiver) -> None:
    bad, unknown = fresh_trace(1), fresh_trace(2)
    assert server.post({"inputs": ["bad"]}, headers=traceparent(trace=bad)).status_code == 415
    path = "/v1/models/nobody:predict"
    assert server.post(IMAGE, path, headers=traceparent(trace=unknown)).status_code == 404

    whole, *stages = receiver.trace(bad, 4)
    assert [stage.name for stage in stages] == ["queue", "decode", "run"]
    assert whole.attributes["mlserve.code"] == "not_an_image"
    assert whole.attributes["http.response.status_code"] == 415
    assert not whole.is_error  # by the conventions, a caller's error is none of the server's
    (lost,) = receiver.trace(unknown, 1)
    assert lost.attributes["mlserve.code"] == "not_found"
    assert lost.attributes["http.route"] == "/v1/models/{model}:predict"


def test_a_late_answer_shows_the_stage_that_it_was_in(
    server: EchoServer, receiver: Receiver
) -> None:
    trace = fresh_trace(3)
    path, body = "/v1/models/m:predict", {"signature_name": "slow", "inputs": [2.0]}
    headers = traceparent(trace=trace) | {"x-request-timeout-ms": "1000"}
    assert server.post(body, path, headers=headers).status_code == 504

    whole, *stages = receiver.trace(trace, 4)
    assert whole.is_error
    assert whole.attributes["error.type"] == "deadline_exceeded"
    assert "deadline" in whole.status_message
    run = stages[-1]
    assert (run.name, run.attributes["mlserve.unfinished"]) == ("run", True)
    assert run.end == whole.end
    assert_nested(whole, stages)


def test_the_callers_flag_is_followed(server: EchoServer, receiver: Receiver) -> None:
    hidden, shown = fresh_trace(4), fresh_trace(5)
    not_recorded = server.post(IMAGE, headers=traceparent("00", hidden))
    own = server.post(IMAGE)  # a trace that begins here is sampled: the default is to follow
    server.post(IMAGE, headers=traceparent(trace=shown))
    httpx.get(f"http://{server.rest}/v2/health/ready", headers=traceparent(trace=hidden))

    assert not_recorded.headers["traceparent"].endswith("-00")
    _, trace_id, span_id, flags = own.headers["traceparent"].split("-")
    assert flags == "01"
    whole, *_ = receiver.trace(trace_id, 5)
    assert (whole.span_id, whole.parent_id) == (span_id, "")
    receiver.trace(shown, 5)
    assert not [span for span in receiver.spans if span.trace_id == hidden]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_all_is_sent_before_the_end(start_with: Start, receiver: Receiver, protocol: str) -> None:
    server = start_with(
        *("--otlp", receiver.url(protocol)), **NEVER, OTEL_METRIC_EXPORT_INTERVAL="300"
    )
    with Client(server.grpc, model="m") as client:
        answers = [client.predict(b"x") for _ in range(20)]
    with (
        Client(server.grpc, model="m", retries=Retries(1)) as client,
        pytest.raises(InvalidInput) as caught,
    ):
        client.predict(b"bad")
    assert not [s for s in receiver.spans if s.trace_id == answers[0].trace_id]
    page = httpx.get(f"http://{server.rest}/metrics").text
    sent = len(receiver.requests("metrics"))
    wait_until(lambda: len(receiver.requests("metrics")) > sent + 1)
    assert_same_metrics(page, receiver)
    assert end(server) < QUICK

    for answer in answers:
        whole, *stages = receiver.trace(answer.trace_id or "", 5)
        assert (whole.name, whole.kind) == (
            "tensorflow.serving.PredictionService/Predict",
            "SERVER",
        )
        assert [stage.name for stage in stages] == STAGES
        assert_nested(whole, stages)
    expected = {
        "rpc.system.name": "grpc",
        "rpc.system": "grpc",
        "rpc.method": "tensorflow.serving.PredictionService/Predict",
        "rpc.response.status_code": "OK",
    }
    assert expected.items() <= whole.attributes.items()
    failed, *_ = receiver.trace(caught.value.details["trace_id"], 1)
    assert failed.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    [ready] = receiver.metrics()["mlserve_ready"][1]
    assert ready.value == 0  # the last ones are of a server that has unloaded its models


def assert_same_metrics(page: str, receiver: Receiver) -> None:
    """The latest metrics are those of the page, but for what the scrape has changed."""
    metrics = receiver.metrics()
    compared = set()
    for family in text_string_to_metric_families(page):
        name = family.name + ("_total" if family.type == "counter" else "")
        if not OWN_SERIES.match(name) or not family.samples:
            continue
        compared.add(name)
        kind, points = metrics[name]
        assert kind == {"counter": "sum"}.get(family.type, family.type)
        sent = {point.labels: point.value for point in points}
        if family.type != "histogram":
            expected = {tuple(sorted(s.labels.items())): s.value for s in family.samples}
            assert sent == expected
            continue
        for labels, (count, total, bounds, counts) in sent.items():
            below = 0
            for bound, number in zip((*bounds, float("inf")), counts, strict=True):
                below += number
                [bucket] = [
                    s.value
                    for s in family.samples
                    if s.name.endswith("_bucket")
                    and float(s.labels["le"]) == bound
                    and set(labels) <= set(s.labels.items())
                ]
                assert bucket == below
            assert below == count
            [summed] = [
                s.value
                for s in family.samples
                if s.name.endswith("_sum") and dict(labels) == s.labels
            ]
            assert summed == pytest.approx(total)
    assert {
        "mlserve_request_duration_seconds",
        "mlserve_stage_duration_seconds",
        "mlserve_work_total",
        "mlserve_refused_total",
        "mlserve_model_version",
        "mlserve_queue_limit",
    } <= compared
    families = {name for name in metrics if name.startswith(("mlserve_", "process_", "python_"))}
    assert {"process_cpu_seconds_total", "python_info", "mlserve_requests_total"} <= families


def test_metrics_come_at_intervals_and_sampling_is_the_sdks(
    start_with: Start, receiver: Receiver
) -> None:
    before = len(receiver.requests("metrics"))
    server = start_with(
        *("--otlp", receiver.http),
        OTEL_METRIC_EXPORT_INTERVAL="100",
        OTEL_TRACES_SAMPLER="always_off",
        OTEL_SERVICE_NAME="vision",
        OTEL_EXPORTER_OTLP_HEADERS="x-tenant=factory",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )
    answer = server.post(IMAGE, headers=traceparent(trace=fresh_trace(6)))
    assert answer.headers["traceparent"].endswith("-00")
    wait_until(lambda: len(receiver.requests("metrics")) >= before + 3)
    assert end(server) < QUICK

    assert not [span for span in receiver.spans if span.trace_id == fresh_trace(6)]
    [resource] = receiver.requests("metrics")[-1].resource_metrics
    names = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert names["service.name"] == "vision"
    assert receiver.headers[-1]["x-tenant"] == "factory"
    assert receiver.headers[-1]["content-encoding"] == "gzip"


def test_stages_in_a_process_of_their_own_have_true_times(
    start_with: Start, receiver: Receiver
) -> None:
    server = start_with("--otlp", receiver.http, "--processes", "2", **SOON)
    trace = fresh_trace(7)
    assert server.post(IMAGE, headers=traceparent(trace=trace)).status_code == 200
    whole, *stages = receiver.trace(trace, 5)
    assert [stage.name for stage in stages] == STAGES
    assert_nested(whole, stages)


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


def test_a_signal_can_be_left_out(start_with: Start) -> None:
    with receiving() as receiver:
        server = start_with(*("--otlp", receiver.grpc), **NEVER, OTEL_METRICS_EXPORTER="none")
        server.post(IMAGE)
        end(server)
        assert "otlp: spans go to" in server.log()
        assert len(receiver.spans) == 5
        assert receiver.requests("metrics") == []


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


@pytest.mark.parametrize(
    ("sent", "state"),
    [
        (["a=1, b=2"], "a=1,b=2"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1,,", ""], "a=1"),
        (["a=1,a=2"], ""),
        (["A=1,b=2"], ""),
        ([",".join(f"k{n}={n}" for n in range(33))], ""),
        (
            [",".join(f"k{n}=" + "x" * 200 for n in range(3))],
            ",".join(f"k{n}=" + "x" * 200 for n in range(2)),
        ),
    ],
)
def test_a_tracestate_is_passed_on(
    server: EchoServer, receiver: Receiver, sent: list[str], state: str
) -> None:
    trace = uuid.uuid4().hex
    headers = [*traceparent(trace=trace).items(), *(("tracestate", each) for each in sent)]
    path = f"http://{server.rest}/v1/models/m:predict"
    assert httpx.post(path, json=IMAGE, headers=headers).status_code == 200
    whole, *_ = receiver.trace(trace, 5)
    assert whole.state == state


def test_flags_that_nobody_knows_and_two_parents_are_not_passed_on(server: EchoServer) -> None:
    trace = fresh_trace(40)
    answer = server.post(IMAGE, headers=traceparent("ff", trace))
    assert answer.headers["traceparent"].endswith("-03")
    twice = [*traceparent(trace=trace).items()] * 2
    answer = httpx.post(f"http://{server.rest}/v1/models/m:predict", json=IMAGE, headers=twice)
    assert answer.status_code == 200
    assert trace not in answer.headers["traceparent"]
