"""The metrics of a server, scraped over its REST port before and after what they count."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from mlserve import __version__
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from tests.harness.requests import hang_up

pytestmark = pytest.mark.server

IMAGE = np.array([b"x"], object), DType.BYTES
PREDICT = {"model": "m", "version": "7", "kind": "predict"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: Any) -> Samples:
    page = httpx.get(f"http://{server.rest}/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the series of that name that have these labels."""
    wanted = set(labels.items())
    return sum(v for (n, found), v in samples.items() if n == f"mlserve_{name}" and wanted <= found)


HELD = np.array([60], np.float32), DType.FLOAT32
"""The seconds of a call that runs until the model is released."""


@pytest.fixture
def held(model: Any, start: Any) -> Any:
    """A server with one worker, and room for one request to wait; `slow` runs until released."""
    model.put(7)
    return start("--threads", "1", "--max-queue", "1")


@pytest.fixture
def counted(server: Any) -> Callable[..., None]:
    """Does something, and waits until a series has grown by one and no more."""

    def check(act: Callable[[], Any], name: str, **labels: str) -> None:
        before = value(scrape(server), name, **labels)
        act()
        wait_until(lambda: value(scrape(server), name, **labels) > before)
        assert value(scrape(server), name, **labels) == before + 1

    return check


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])
@pytest.mark.parametrize(("image", "code"), [("x", "ok"), ("bad", "not_an_image")])
def test_requests_over_rest(server: Any, counted: Any, path: str, image: str, code: str) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [image]}
    body = {"inputs": [image] if "v1" in path else [tensor]}
    api = "tfs" if "v1" in path else "oip"
    labels = {**PREDICT, "signature": "serving_default", "code": code}
    ask = lambda: server.post(body, path)  # noqa: E731
    counted(ask, "requests_total", **labels, api=api, transport="rest")


@pytest.mark.parametrize("signature", ["serving_default", "top_k"])
def test_requests_over_grpc(
    server: Any, counted: Any, predict_on: Any, request_of: Any, signature: str
) -> None:
    ask = lambda: predict_on(server, request_of(signature, image=IMAGE)).result()  # noqa: E731
    labels = {**PREDICT, "signature": signature, "code": "ok"}
    counted(ask, "requests_total", **labels, api="tfs", transport="grpc")
    counted(ask, "work_total", outcome="answered")
    counted(ask, "request_duration_seconds_count", signature=signature, transport="grpc")
    for stage in ("queue", "decode", "run", "encode"):
        counted(ask, "stage_duration_seconds_count", signature=signature, stage=stage)


def test_the_run_of_a_slow_model_shows(
    server: Any, counted: Any, predict_on: Any, request_of: Any
) -> None:
    seconds = np.array([0.3], np.float32), DType.FLOAT32
    ask = lambda: predict_on(server, request_of("slow", seconds=seconds)).result()  # noqa: E731
    name = "stage_duration_seconds_bucket"
    before = value(scrape(server), name, signature="slow", stage="run", le="0.25")
    counted(ask, name, signature="slow", stage="run", le="2.5")
    assert value(scrape(server), name, signature="slow", stage="run", le="0.25") == before


def test_what_clients_name_is_no_label(
    server: Any, infer_on: Any, predict_on: Any, request_of: Any
) -> None:
    server.post({"inputs": ["x"]}, "/v1/models/secret:predict")
    server.post({"inputs": ["x"]}, "/v1/models/m/versions/4711:predict")
    server.post({"inputs": ["x"], "signature_name": "secret"})
    infer_on(server, ModelInferRequest(model_name="secret")).exception()
    predict_on(server, request_of("secret", image=IMAGE)).exception()
    httpx.get(f"http://{server.rest}/secret")
    samples = scrape(server)
    assert value(samples, "requests_total", code="not_found") >= 4
    values = {v for (_, labels) in samples for _, v in labels}
    assert not {v for v in values if "secret" in v or "4711" in v}


def test_a_caller_that_makes_names_up_makes_no_series(server: Any) -> None:
    """A million names would be a million series, each kept for ever, here and at who scrapes."""

    def ask(name: str) -> None:
        server.post({"inputs": ["x"]}, f"/v1/models/{name}:predict")
        server.post({"inputs": ["x"]}, f"/v1/models/m/labels/{name}:predict")
        server.post({"inputs": ["x"], "signature_name": name})
        server.post({"inputs": []}, f"/v2/models/{name}/infer")
        headers = {"X-Request-Id": name, "User-Agent": name, "X-Mlserve-Model-Version": name}
        httpx.get(f"http://{server.rest}/{name}", headers=headers)
        httpx.request(name.upper(), f"http://{server.rest}/v1/models/m")

    ask("first")
    scrape(server)  # is a request too
    before = len(scrape(server))
    for number in range(30):
        ask(f"name{number}")
    assert len(scrape(server)) == before


def test_a_deadline_that_passes_is_late(
    held: Any, model: Any, predict_on: Any, request_of: Any
) -> None:
    error = predict_on(held, request_of("slow", seconds=HELD), timeout=2).exception()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: value(scrape(held), "late_total", stage="run") == 1)
    model.release()
    wait_until(lambda: value(scrape(held), "work_total", outcome="late") == 1)


def test_refusals_of_a_full_queue(held: Any, model: Any, predict_on: Any, request_of: Any) -> None:
    slow = request_of("slow", seconds=HELD)
    calls = [predict_on(held, slow, timeout=60)]
    wait_until(lambda: value(scrape(held), "requests_running") == 1)
    calls.append(predict_on(held, slow, timeout=60))
    wait_until(lambda: value(scrape(held), "requests_waiting") == 1)
    assert value(scrape(held), "queue_limit") == 1
    assert held.post({"inputs": ["x"]}).status_code == 429
    wait_until(lambda: value(scrape(held), "refused_total", reason="queue_full") == 1)
    overloaded = {"code": "overloaded", "transport": "rest"}
    wait_until(lambda: value(scrape(held), "requests_total", **overloaded) == 1)
    model.release()
    assert [call.result() is not None for call in calls] == [True, True]
    wait_until(lambda: value(scrape(held), "requests_running") == 0)


def test_a_client_that_leaves_is_cancelled(
    held: Any, model: Any, predict_on: Any, request_of: Any
) -> None:
    call = predict_on(held, request_of("slow", seconds=HELD), timeout=60)
    wait_until(lambda: value(scrape(held), "requests_running") == 1)
    call.cancel()
    cancelled = {"code": "cancelled", "transport": "grpc"}
    wait_until(lambda: value(scrape(held), "requests_total", **cancelled) == 1)
    model.release()
    wait_until(lambda: value(scrape(held), "work_total", outcome="gone") == 1)


def test_a_client_that_hangs_up_is_cancelled(held: Any, model: Any) -> None:
    body = {"inputs": [60], "signature_name": "slow"}
    url = f"http://{held.rest}/v1/models/m:predict"
    hang_up(url, body, once=lambda: value(scrape(held), "requests_running") == 1)
    cancelled = {"code": "cancelled", "transport": "rest"}
    wait_until(lambda: value(scrape(held), "requests_total", **cancelled) == 1)
    model.release()


def test_batches_are_counted(model: Any, start: Any) -> None:
    model.put(7)
    server = start("--max-batch-size", "4")
    assert server.post({"inputs": ["x"]}).status_code == 200
    wait_until(lambda: value(scrape(server), "batch_size_bucket", le="1.0") == 1)


def test_versions_come_and_go(model: Any, start: Any) -> None:
    model.put(7)
    server = start()
    samples = scrape(server)
    assert value(samples, "model_version", model="m", version="7", state="AVAILABLE") == 1
    assert value(samples, "ready") == 1
    model.put(8, fail_load="damaged")
    wait_until(lambda: value(scrape(server), "model_version", version="8", state="END") == 1)
    model.put(9)
    wait_until(lambda: value(scrape(server), "model_version", version="9", state="AVAILABLE") == 1)
    wait_until(lambda: value(scrape(server), "model_version", version="7") == 0)


def test_a_server_that_loads_is_not_ready(model: Any, launch: Any) -> None:
    model.put(1, load_delay=60)
    server = launch()
    server.wait_listening()
    wait_until(lambda: value(scrape(server), "model_version", state="LOADING") == 1)
    assert value(scrape(server), "ready") == 0


def test_what_is_there_from_the_start(server: Any) -> None:
    samples = scrape(server)
    assert value(samples, "build_info", backend="echo", version=__version__) == 1
    assert value(samples, "log_lines_lost_total") == 0
    names = {name for name, _ in samples}
    assert {"process_resident_memory_bytes", "python_info", "process_cpu_seconds_total"} <= names
    reasons = {dict(labels)["reason"] for name, labels in samples if name.endswith("refused_total")}
    assert {"queue_full", "deadline", "draining", "too_large", "unauthenticated"} <= reasons
    assert not {name for name in names if name.endswith("_created")}


def test_every_metric_is_in_the_document(model: Any, start: Any, tmp_path: Path) -> None:
    model.put(1)
    server = start(f"--record={tmp_path / 'records'}")
    page = httpx.get(f"http://{server.rest}/metrics").text
    shown = set(re.findall(r"^# TYPE (mlserve_\w+) ", page, re.MULTILINE))
    document = Path(__file__).parents[3] / "docs" / "observability.md"
    rows = [line for line in document.read_text().splitlines() if line.startswith("| `mlserve_")]
    rows = [row for row in rows if "with `--otlp`" not in row]  # they come with the export
    told = {name for row in rows for name in re.findall(r"`(mlserve_\w+)`", row.split("|")[1])}
    assert shown == told


def test_who_has_no_token_is_counted(
    model: Any, launch: Any, predict_on: Any, request_of: Any, tmp_path: Path
) -> None:
    model.put(7)
    token = tmp_path / "token"
    token.write_text("c0ffee")
    server = launch("--token-file", str(token))
    server.wait_listening()
    error = predict_on(server, request_of(image=IMAGE)).exception()
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "x-request-id" in dict(error.trailing_metadata())
    assert server.post({"inputs": ["x"]}).status_code == 401
    headers = {"Authorization": "Bearer c0ffee"}
    page = lambda: httpx.get(f"http://{server.rest}/metrics", headers=headers).text  # noqa: E731
    wait_until(lambda: 'mlserve_refused_total{reason="unauthenticated"} 2.0' in page())


def test_the_load_is_in_the_metadata(server: Any) -> None:
    load = httpx.get(f"http://{server.rest}/v2").json()["parameters"]
    assert {"running", "waiting", "max_queue"} <= load.keys()


def test_the_formats_and_paths(server: Any) -> None:
    url = f"http://{server.rest}"
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = httpx.get(f"{url}/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "mlserve_requests" in {family.name for family in openmetrics_families(answer.text)}
    plain = httpx.get(f"{url}/monitoring/prometheus/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert httpx.post(f"{url}/metrics").status_code == 405
