"""`--otlp`, from requests to real servers to what a receiver of OTLP gets over real sockets."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlserve import __version__
from mlserve.client import Client, Retries
from mlserve.errors import InvalidInput
from mlserve.testing.processes import wait_until
from tests.harness.collector import ReceivedSpan, Receiver, receiving
from tests.harness.exporting import (
    CALLER,
    IMAGE,
    NEVER,
    QUICK,
    SOON,
    TRACE,
    Start,
    end,
    fresh_trace,
    traceparent,
)
from tests.harness.server import EchoServer, EchoServers

pytestmark = pytest.mark.server

STAGES = ["queue", "decode", "run", "encode"]
OWN_SERIES = re.compile("mlserve_(?!otlp_|requests|config)")


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


def logged(server: EchoServer, trace_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log().splitlines()]
        return [line for line in lines if line.get("trace_id") == trace_id]

    (line,) = wait_until(found)
    return line


def assert_nested(whole: ReceivedSpan, stages: list[ReceivedSpan]) -> None:
    """Each stage is a child within the whole, and begins when the one before it has ended."""
    assert all(whole.holds(stage) and stage.parent_id == whole.span_id for stage in stages)
    for before, after in pairwise(stages):
        assert before.end <= after.start


def test_a_request_over_rest(server: EchoServer, receiver: Receiver) -> None:
    before = time.time_ns()
    headers = traceparent() | {"tracestate": "vendor=x7", "x-request-id": "part-7"}
    answer = server.post(IMAGE, headers=headers)

    assert answer.status_code == 200
    whole, *stages = receiver.trace(TRACE, 5)
    assert (whole.name, whole.kind) == ("POST /v1/models/{model}:predict", "SERVER")
    assert (whole.parent_id, whole.state) == (CALLER, "vendor=x7")
    assert answer.headers["traceparent"] == f"00-{TRACE}-{whole.span_id}-01"
    assert [stage.name for stage in stages] == STAGES
    assert {stage.kind for stage in stages} == {"INTERNAL"}
    assert before <= whole.start
    assert whole.end <= time.time_ns()
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


def test_a_signal_can_be_left_out(start_with: Start) -> None:
    with receiving() as receiver:
        server = start_with(*("--otlp", receiver.grpc), **NEVER, OTEL_METRICS_EXPORTER="none")
        server.post(IMAGE)
        end(server)
        assert "otlp: spans go to" in server.log()
        assert len(receiver.spans) == 5
        assert receiver.requests("metrics") == []


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
