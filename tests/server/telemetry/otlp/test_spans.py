"""Spans made of records: names that stay few, attributes, parts, and clocks."""

from __future__ import annotations

import time

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import StatusCode

from mlserve.server.request import Purpose, RequestRecord, Route, Span, StageTimes
from mlserve.server.telemetry.otlp.spans import EndedRequest, SpanMaker, http_route

MAKER = SpanMaker(Resource.get_empty(), is_secure=True)
SPAN = Span("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "", "01")


def record_of(path: str, transport: str = "rest", **fields: object) -> RequestRecord:
    route = Route(transport, "tfs", Purpose.PREDICT, path)
    return RequestRecord("id", SPAN, route, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/models/m:predict", "/v1/models/{model}:predict"),
        ("/v1/models/m/versions/7:predict", "/v1/models/{model}/versions/{version}:predict"),
        ("/v1/models/m/labels/stable:predict", "/v1/models/{model}/labels/{label}:predict"),
        ("/v1/models/m/metadata", "/v1/models/{model}/metadata"),
        ("/ml/v2/models/a:b/versions/7/infer", "/ml/v2/models/{model}/versions/{version}/infer"),
        ("/v2/repository/models/m/load", "/v2/repository/models/{model}/load"),
        ("/v2", "/v2"),
    ],
)
def test_routes_have_placeholders(path: str, route: str) -> None:
    assert http_route(Route("rest", "tfs", Purpose.PREDICT, f"POST {path}")) == route


def test_a_path_that_is_not_served_is_no_name() -> None:
    route = Route("rest", "", Purpose.OTHER, "BREW /coffee")
    record = RequestRecord("id", SPAN, route, status="404", code="not_found")
    [span] = MAKER.spans_of(EndedRequest.of(record, 0.1))
    assert span.name == "_OTHER"
    assert span.attributes is not None
    assert "http.route" not in span.attributes
    assert span.attributes["url.path"] == "/coffee"
    assert span.attributes["url.scheme"] == "https"
    assert span.attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(
    ("transport", "status", "code", "is_fault"),
    [
        ("rest", "200", "ok", False),
        ("rest", "429", "overloaded", False),
        ("rest", "500", "inference_failed", True),
        ("rest", "499", "cancelled", False),
        ("grpc", "OK", "ok", False),
        ("grpc", "RESOURCE_EXHAUSTED", "overloaded", False),
        ("grpc", "INTERNAL", "inference_failed", True),
        ("grpc", "", "cancelled", False),
        ("grpc", "", "deadline_exceeded", True),
        ("direct", "", "ok", False),
        ("direct", "", "overloaded", True),
    ],
)
def test_what_is_a_fault_of_the_server(
    transport: str, status: str, code: str, is_fault: bool
) -> None:
    record = record_of("POST /v1/models/m:predict", transport, status=status, code=code)
    [span] = MAKER.spans_of(EndedRequest.of(record, 0.1))
    assert (span.status.status_code is StatusCode.ERROR) is is_fault
    assert (span.attributes or {}).get("error.type") == (code if is_fault else None)


def test_parts_that_ran_at_once_lie_within_the_request() -> None:
    began = time.monotonic() - 1
    times = StageTimes(0.1, 0.1, 0.6, 0.1, began + 0.05, began + 0.15, began + 0.25, began + 0.85)
    record = record_of("/service/MultiInference", "grpc", began=began, code="ok", status="OK")
    record.take_in([record_of("", times=times), record_of("", times=times)])
    assert record.times.run == pytest.approx(1.2)

    whole, *stages = MAKER.spans_of(EndedRequest.of(record, 1.0))

    assert [stage.name for stage in stages] == ["queue", "decode", "run", "encode"] * 2
    assert [(stage.attributes or {})["mlserve.part"] for stage in stages] == [0] * 4 + [1] * 4
    assert whole.start_time is not None
    assert whole.end_time is not None
    assert whole.end_time - whole.start_time == pytest.approx(1e9, abs=1000)
    for stage in stages:
        assert stage.start_time is not None
        assert stage.end_time is not None
        assert whole.start_time <= stage.start_time <= stage.end_time <= whole.end_time
    assert abs(whole.end_time - time.time_ns()) < 60e9


def test_work_that_outlives_its_request_does_not_change_it() -> None:
    began = time.monotonic() - 1
    record = record_of("/s/M", "grpc", began=began, code="deadline_exceeded")
    record.times.take((0.1, 0.1, 0.0, 0.0, began, began + 0.1, began + 0.2, 0.0))
    ended = EndedRequest.of(record, 0.5)
    record.times.run, record.times.encode_at, record.times.encode = 3.0, began + 3.2, 0.1

    whole, *stages = MAKER.spans_of(ended)

    assert ended.spans == 4
    assert [stage.name for stage in stages] == ["queue", "decode", "run"]
    assert stages[-1].end_time == whole.end_time
    assert (stages[-1].attributes or {})["mlserve.unfinished"] is True
