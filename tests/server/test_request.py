"""The traceparent of a request: W3C's form, and nothing else."""

from __future__ import annotations

import re

import pytest

from mlserve.admission.callers import Caller, Priority
from mlserve.errors import InvalidInput
from mlserve.server.request import OK, Purpose, RequestRecord, Route, Span, StageTimes

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROUTE = Route("rest", "tfs", Purpose.PREDICT, "POST /v1/models/m:predict")


def arrived(**headers: str) -> RequestRecord:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestRecord.arrived(ROUTE, sent.get)


@pytest.mark.parametrize(
    "header",
    [f"00-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes-later"],
)
def test_the_caller_s_trace_goes_on(header: str) -> None:
    span = Span.from_header(header)
    assert (span.trace_id, span.parent_id, span.flags) == (TRACE, SPAN, "01")
    assert span.span_id != SPAN
    assert span.traceparent == f"00-{TRACE}-{span.span_id}-01"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_none_begins_a_trace(header: str | None) -> None:
    span = Span.from_header(header)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", span.traceparent)
    assert span.trace_id not in (TRACE, "0" * 32)
    assert span.parent_id == ""
    assert Span.from_header(header).trace_id != span.trace_id


def test_a_sane_id_is_kept() -> None:
    assert arrived(x_request_id="line-7/part#12").request_id == "line-7/part#12"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\nb", "é"])
def test_any_other_id_is_replaced(given: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", arrived(x_request_id=given).request_id)


def test_an_answer_has_all_times_and_an_error_those_that_were_reached() -> None:
    record = arrived(x_request_id="7")
    assert "server-timing" not in dict(record.headers())
    record.times = StageTimes(queue=0.001234, decode=0.0005)
    assert dict(record.headers())["server-timing"] == "queue;dur=1.234, decode;dur=0.500"
    record.code = OK
    assert dict(record.headers())["server-timing"] == (
        "queue;dur=1.234, decode;dur=0.500, run;dur=0.000, encode;dur=0.000"
    )


@pytest.mark.parametrize(
    ("sent", "agent"),
    [
        ("curl/8.14.1", "curl/8.14.1"),
        ("grpc-python/1.85.1 grpc-c/46.0.0 (linux; chttp2)", "grpc-python/1.85.1"),
        ("x" * 100, "x" * 64),
        ("caf\u00e9/1", "caf"),
        (" curl", ""),
        ("", ""),
    ],
)
def test_a_caller_is_known_by_the_first_word_of_its_agent(sent: str, agent: str) -> None:
    record = RequestRecord.arrived(ROUTE, {"user-agent": sent}.get, "10.0.0.7")
    assert record.caller == Caller("rest", agent, "10.0.0.7")
    record.named("web")
    assert record.caller == Caller("rest", agent, "10.0.0.7", "web")


@pytest.mark.parametrize("sent", ["critical", "CRITICAL", " critical "])
def test_a_call_has_the_priority_that_its_caller_says(sent: str) -> None:
    record = arrived()
    for absent in ({}, {"x-request-priority": ""}):
        record.take_priority(absent.get)
        assert record.priority is Priority.DEFAULT
    record.take_priority({"x-request-priority": sent}.get)
    assert record.priority is Priority.CRITICAL


@pytest.mark.parametrize("sent", ["high", "2", "critical, default", "x" * 1000])
def test_a_priority_that_does_not_exist_is_an_error_that_names_the_three(sent: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        arrived().take_priority({"x-request-priority": sent}.get)
    assert refused.value.message.startswith(
        f"x-request-priority must be sheddable, default or critical, not '{sent[:20]}"
    )
