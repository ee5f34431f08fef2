"""Traces through the ingress: the span of the replica that answers is the caller's child."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from mlserve_ray.flags import parse, replica_plan

from tests.harness.collector import receiving
from tests.harness.server import EchoServers

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.server
def test_the_caller_is_the_parent_of_the_replicas_span(
    front: Any, servers: EchoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with receiving() as receiver:
        front.use(servers("--otlp", receiver.http), servers("--otlp", receiver.http))
        answer = httpx.post(
            f"{front.rest}/v1/models/m:predict",
            json={"inputs": ["x"]},
            headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=x7"},
            timeout=20,
        )
        assert answer.status_code == 200
        whole, *stages = receiver.trace(TRACE, 5)
        assert (whole.parent_id, whole.state) == (CALLER, "vendor=x7")
        assert answer.headers["traceparent"] == f"00-{TRACE}-{whole.span_id}-01"
        assert {stage.parent_id for stage in stages} == {whole.span_id}


def test_every_replica_is_told_of_the_collector() -> None:
    options = parse(
        [
            *("--name", "m", "--backend", "echo", "--model", "m", "--base-path", "nowhere"),
            "--otlp=http://collector:4318",
        ]
    )
    assert "--otlp=http://collector:4318" in replica_plan(options).flags
