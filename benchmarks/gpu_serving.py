"""The parts of `gpu.py` that start the real server, and ask it from one client and from many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
from gpu_bench import MODEL, Bench, numbered, photo_bytes
from served_model import predict_request

from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.measure import measure
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.load_options import JpegChoice
from mlserve.percentiles import OF_LOADS, Percentiles
from mlserve.testing.processes import launched
from mlserve.testing.questions import as_base64, predict_method
from mlserve.wire.services import PREDICTION, method_path

CLIENTS, PROCESSES, TIMEOUT = 64, 4, 10.0
PROCESSES_OF_SERVER = (2, 3, 4)


def serving(bench: Bench) -> dict[str, Any]:
    """The real server, one client and 64, on gRPC and REST."""
    return _served(bench, JpegChoice.ACCURATE)


def serving_gpu_jpeg(bench: Bench) -> dict[str, Any]:
    """The same with JPEGs decoded on the GPU."""
    if not bench.is_gpu:
        return {}
    # The certificate was made with pixels of the CPU, which nvJPEG does not give.
    options = ("--jpeg-decoder", JpegChoice.GPU, "--on-drift", "serve")
    return _served(bench, JpegChoice.GPU, *options)


def serving_processes(bench: Bench) -> dict[str, Any]:
    """The same with the model in processes of its own."""
    found: dict[str, Any] = {}
    for processes in PROCESSES_OF_SERVER:
        found |= _served(bench, shape(processes), "--processes", str(processes))
    return found


def shape(processes: int) -> str:
    """The name in the report of a server with so many processes."""
    return f"{processes}_processes"


def _served(bench: Bench, name: str, *more: str) -> dict[str, Any]:
    flags = ("--device", bench.device, "--max-queue", "256", *more)
    found: dict[str, Any] = {}
    with launched("torch", bench.artifact(), *flags) as server:
        server.wait_ready()
        found[f"{name}_grpc_1_client_ms"] = _one_client(bench, server.grpc)
        one = _metrics(server.rest)
        found[f"{name}_grpc_1_client_stages_ms"] = _stages(one, {})
        found[f"{name}_rest_1_client_ms"] = _one_rest_client(bench, server.rest)
        before = _metrics(server.rest)
        found[f"{name}_grpc_{CLIENTS}_clients"] = _many_clients(bench, server.grpc)
        after = _metrics(server.rest)
        found[f"{name}_grpc_{CLIENTS}_clients_stages_ms"] = _stages(after, before)
        found[f"{name}_batches"] = {
            name.split('"')[1]: value - before[name]
            for name, value in after.items()
            if name.startswith("mlserve_batch_size_bucket")
        }
    return found


def _metrics(address: str) -> dict[str, float]:
    """The server's metrics by their names with labels."""
    lines = httpx.get(f"http://{address}/metrics", timeout=10).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def _stages(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """The mean milliseconds of each stage of a request, and of the whole, between the two."""
    found = {}
    for name, value in after.items():
        if "request_duration_seconds_sum" in name or "stage_duration_seconds_sum" in name:
            count = name.replace("_sum", "_count")
            requests = after[count] - before.get(count, 0)
            if requests:
                took = (value - before.get(name, 0)) / requests
                found[name.split('"')[5]] = round(took * 1000, 3)
    return found


def _one_client(bench: Bench, address: str) -> dict[str, float]:
    request = predict_request(MODEL, "top_k", photo_bytes)
    with grpc.insecure_channel(address) as channel:
        call = predict_method(channel)
        return _percentiles(lambda: call(request, timeout=60), bench.calls * 2)


def _one_rest_client(bench: Bench, address: str) -> dict[str, float]:
    body = {"signature_name": "top_k", "instances": [{"image": as_base64(photo_bytes)}]}
    url, content = f"http://{address}/v1/models/{MODEL}:predict", json.dumps(body).encode()
    with httpx.Client(timeout=60) as client:
        return _percentiles(
            lambda: client.post(url, content=content).raise_for_status(), bench.calls
        )


def _percentiles(call: Callable[[], object], calls: int) -> dict[str, float]:
    for _ in range(5):
        call()
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    found = Percentiles.from_values(times)
    assert found is not None  # there is at least one call
    return found.to_json()


def _many_clients(bench: Bench, address: str) -> dict[str, Any]:
    requests = [
        predict_request(MODEL, "top_k", numbered(photo_bytes, number)) for number in range(CLIENTS)
    ]
    predict = method_path(PREDICTION, "Predict")
    calls = [Call(predict, request.SerializeToString()) for request in requests]
    target = Target.of_calls("gpu", Connection.to(address), calls, TIMEOUT)
    window = Window(3.0 if bench.quick else 5.0, 1.0, TIMEOUT)
    [found] = measure([target], [ClosedLoop(CLIENTS)], window, processes=PROCESSES)
    tally = found.tally
    errors = tally.requests - tally.in_time
    return {
        "per_s": round(found.goodput),
        **{f"{name}_ms": _ms(found.latency(OF_LOADS[name])) for name in ("p50", "p99", "max")},
        "errors": errors,
        "errors_by_kind": {**tally.refused, **tally.failed},
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


SERVING: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "serving": serving,
    "serving_gpu_jpeg": serving_gpu_jpeg,
    "serving_processes": serving_processes,
}
