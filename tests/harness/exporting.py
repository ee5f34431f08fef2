"""A server that exports: its settings, what it is sent, what its page counts, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.server import EchoServer

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
"""No span is sent before the end."""
QUICK = 9
"""Seconds in which a server ends that its collector does not hold: the drain has ten."""
IMAGE = {"inputs": ["x"]}
Start = Callable[..., EchoServer]


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


def scraped(server: EchoServer, name: str, **labels: str) -> float:
    page = httpx.get(f"http://{server.rest}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
