"""What the log of a real server says of its requests, and that no request ever waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest

from mlserve.errors import DeadlineExceeded, NotAnImage, Overloaded
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.telemetry.request_log import LINES_OF_A_REASON, RequestLog
from mlserve.settings import LogFormat, LogRequests, ServerSettings
from mlserve.tensors import DType
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server

BAD = {"inputs": ["bad"]}
GOOD = {"inputs": ["x"]}


def requests_in(server: Any) -> list[str]:
    return [line for line in server.log().splitlines() if "request_id=" in line]


def counts_in(line: str) -> dict[str, int]:
    """The counts of a summary line."""
    found = re.search(r"(\d+) more failed in the last [\d.]+ s: ([a-z_0-9, ]+)", line)
    assert found, line
    counts = dict(part.rsplit(" ", 1) for part in found[2].split(", "))
    assert sum(map(int, counts.values())) == int(found[1])
    return {name: int(count) for name, count in counts.items()}


def test_a_text_log_has_the_failed_ones(model: Any, start: Any) -> None:
    model.put(7)
    server = start()
    for _ in range(3):
        assert server.post(GOOD).status_code == 200
    httpx.get(f"http://{server.rest}/v2/health/ready")
    httpx.get(f"http://{server.rest}/v1/models/nope")  # as good as a probe
    server.post(BAD, headers={"X-Request-Id": "part-7"})
    (line,) = wait_until(lambda: requests_in(server))
    assert re.match(r"\S+Z INFO predict failed code=not_an_image error=\"image 0 of 1 is", line)
    assert " request_id=part-7 " in line
    assert " signature=serving_default " in line


def test_a_text_log_can_have_all_or_none(model: Any, start: Any) -> None:
    model.put(7)
    server = start("--log-requests", "all")
    server.post(GOOD)
    (line,) = wait_until(lambda: requests_in(server))
    assert " INFO predict code=ok api=tfs transport=rest " in line


def test_a_log_without_requests(model: Any, start: Any) -> None:
    model.put(7)
    server = start("--log-requests", "none", "--log-format", "json")
    server.post(BAD)
    server.post(GOOD)
    server.process.terminate()
    assert server.exit_code() == 0
    assert "request_id" not in server.log()
    assert all(isinstance(json.loads(line), dict) for line in server.log().splitlines())


def test_a_json_log_has_every_request_and_no_probe(model: Any, start: Any) -> None:
    model.put(7)
    server = start("--log-format", "json")
    for number in range(30):
        server.post(BAD if number % 2 else GOOD)
    for path in ("/metrics", "/v2/health/ready", "/v1/models/m", "/v2/models/m/ready"):
        httpx.get(f"http://{server.rest}{path}")
    server.process.terminate()
    assert server.exit_code() == 0
    lines = [json.loads(line) for line in server.log().splitlines()]
    codes = [line["code"] for line in lines if line["logger"] == "mlserve.request"]
    assert (codes.count("ok"), codes.count("not_an_image"), len(codes)) == (15, 15, 30)
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in lines)


def test_ten_thousand_bad_images_are_a_few_lines(model: Any, start: Any) -> None:
    """A fiftieth of them here."""
    model.put(7)
    server = start()
    with httpx.Client(base_url=f"http://{server.rest}") as client:
        for _ in range(200):
            assert client.post("/v1/models/m:predict", json=BAD).status_code == 415
    server.process.terminate()
    assert server.exit_code() == 0
    one_by_one = len(requests_in(server))
    assert 10 <= one_by_one <= 20  # two windows at most
    summaries = [line for line in server.log().splitlines() if "more failed in the last" in line]
    counted = sum(counts_in(line)["not_an_image"] for line in summaries)
    assert one_by_one + counted == 200


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_refusals_do_not_flood_the_log(
    model: Any, start: Any, predict_on: Any, request_of: Any, log_format: str
) -> None:
    model.put(7)
    options = ("--threads", "1", "--max-queue", "0", "--drain-timeout", "0.1")
    server = start(*options, "--log-format", log_format)
    slow = request_of("slow", seconds=(np.array([30], np.float32), DType.FLOAT32))
    running = predict_on(server, slow, timeout=60)
    wait_until(lambda: "slow" in model.runs())
    codes = {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert {predict_on(server, slow).exception().code() for _ in range(25)} == codes
    assert {server.post(GOOD).status_code for _ in range(25)} == {429}
    running.cancel()
    server.process.terminate()
    assert server.exit_code() == 0
    told = [line for line in server.log().splitlines() if "queue_full" in line]
    summaries = [line for line in told if "more failed in the last" in line]
    one_by_one = len(told) - len(summaries)
    assert 10 <= one_by_one <= 20  # two windows at most
    assert sum(counts_in(line)["queue_full"] for line in summaries) == 50 - one_by_one


def listening(process: subprocess.Popen[bytes]) -> list[int]:
    """The ports that the process listens on."""
    found = psutil.Process(process.pid).net_connections(kind="tcp")
    return sorted(c.laddr.port for c in found if c.status == psutil.CONN_LISTEN)


@pytest.fixture
def serving(model: Any) -> Iterator[Callable[..., Any]]:
    """Starts a server with that stderr; returns it with the URL of its REST port."""
    model.put(7)
    started = []

    def launch(stderr: Any, *before: str) -> tuple[subprocess.Popen[bytes], str]:
        command = [sys.executable, "-m", "mlserve.server", "--backend", "echo", "--model", "m"]
        ports = ["--grpc-port=0", "--rest-port=0", "--log-format=json"]
        argv = [*before, *command, "--base-path", str(model.base_path), *ports]
        process = subprocess.Popen(argv, stderr=stderr)
        started.append(process)
        wait_until(lambda: len(listening(process)) == 2)
        return process, wait_until(lambda: url_of(process))

    yield launch
    for process in started:
        process.kill()
        process.wait()


def url_of(process: subprocess.Popen[bytes]) -> str:
    """The URL of its REST port once it is ready; empty before."""
    for port in listening(process):
        url = f"http://127.0.0.1:{port}"
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=5).status_code == 200:
                return url
        except httpx.RemoteProtocolError:  # the gRPC port
            continue
    return ""


def lost(url: str) -> float:
    found = re.search(
        r"^mlserve_log_lines_lost_total (\S+)$", httpx.get(f"{url}/metrics").text, re.M
    )
    assert found
    return float(found[1])


def test_a_full_disk_loses_lines_and_no_requests(serving: Any) -> None:
    with Path("/dev/full").open("wb") as full:
        process, url = serving(full)
    for _ in range(20):
        assert httpx.post(f"{url}/v1/models/m:predict", json=GOOD).status_code == 200
    wait_until(lambda: lost(url) >= 20)
    process.terminate()
    assert process.wait(60) == 0


def test_a_pipe_that_nobody_holds_loses_lines_and_no_requests(serving: Any) -> None:
    process, url = serving(subprocess.PIPE)
    process.stderr.close()
    for _ in range(20):
        assert httpx.post(f"{url}/v1/models/m:predict", json=GOOD).status_code == 200
    wait_until(lambda: lost(url) >= 20)
    process.terminate()
    assert process.wait(60) == 0


def test_a_pipe_that_nobody_reads_holds_up_no_request(serving: Any) -> None:
    process, url = serving(subprocess.PIPE)
    long = {"X-Request-Id": "x" * 128, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    with httpx.Client(base_url=url, headers=long) as client:
        for _ in range(200):  # more than a pipe of 64 KiB holds
            assert client.post("/v1/models/m:predict", json=GOOD, timeout=5).status_code == 200
    process.terminate()
    assert process.wait(60) == 0
    process.stderr.close()


def test_a_server_without_stderr_serves(serving: Any) -> None:
    """Its number is free then, and a socket may take it."""
    process, url = serving(None, "sh", "-c", 'exec "$@" 2>&-', "sh")
    assert httpx.post(f"{url}/v1/models/m:predict", json=BAD).status_code == 415
    assert httpx.post(f"{url}/v1/models/m:predict", json=GOOD).status_code == 200
    process.terminate()
    assert process.wait(60) == 0


# Many failures are one fact: which requests get a line of their own, and which are counted.

ALL = ServerSettings(log_format=LogFormat.JSON)
ERRORS = ServerSettings()
ROUTE = Route("rest", "tfs", Purpose.PREDICT, "POST /v1/models/m:predict")


def ended(error: Exception | None = None, refused: str = "") -> RequestRecord:
    record = RequestRecord(request_id="7", route=ROUTE, refused=refused)
    if error is None:
        record.answered()
    else:
        record.failed(error)  # type: ignore[arg-type]
    return record


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO)
    return lambda: [f"{r.levelname} {r.getMessage()}" for r in caplog.records]


@pytest.mark.parametrize(
    ("settings", "ok", "failed"),
    [
        (ERRORS, 0, LINES_OF_A_REASON),
        (ALL, 30, 30),
        (ServerSettings(log_format=LogFormat.JSON, log_requests=LogRequests.NONE), 0, 0),
        (ServerSettings(log_requests=LogRequests.ALL), 30, 30),
    ],
)
def test_which_have_a_line(lines: Any, settings: ServerSettings, ok: int, failed: int) -> None:
    async def note() -> None:
        log = RequestLog(settings)
        for _ in range(30):
            log.note(ended(), 0.1)
            log.note(ended(NotAnImage("it is none")), 0.1)

    asyncio.run(note())
    assert (lines().count("INFO predict"), lines().count("INFO predict failed")) == (ok, failed)


@pytest.mark.parametrize("settings", [ERRORS, ALL])
def test_refusals_are_counted(lines: Any, settings: ServerSettings) -> None:
    async def note() -> None:
        log = RequestLog(settings)
        for _ in range(22):
            log.note(ended(Overloaded("full"), "queue_full"), 0.1)
            log.note(ended(DeadlineExceeded("too slow"), "deadline"), 0.1)
        log.note(ended(DeadlineExceeded("too slow"), "deadline"), 0.1)
        log.close()
        log.close()

    asyncio.run(note())
    assert lines()[:-1] == ["WARNING predict failed"] * 2 * LINES_OF_A_REASON
    assert lines()[-1].startswith("WARNING requests: 25 more failed in the last 0")
    assert lines()[-1].endswith(" s: deadline 13, queue_full 12")


def test_a_window_ends_by_itself_and_the_next_begins(lines: Any) -> None:
    async def note() -> None:
        log = RequestLog(ERRORS, window_seconds=0.05)
        for _ in range(2):
            for _ in range(LINES_OF_A_REASON + 1):
                log.note(ended(NotAnImage("it is none")), 0.1)
            before = len(lines())
            while len(lines()) == before:  # noqa: ASYNC110 - a line is no event
                await asyncio.sleep(0.005)
        log.close()

    asyncio.run(note())
    window = ["INFO predict failed"] * LINES_OF_A_REASON
    *first, summary = lines()[: LINES_OF_A_REASON + 1]
    *second, again = lines()[LINES_OF_A_REASON + 1 :]
    assert first == second == window
    for line in (summary, again):
        assert re.fullmatch(
            r"WARNING requests: 1 more failed in the last [\d.]+ s: not_an_image 1", line
        )


def test_a_probe_has_none(lines: Any) -> None:
    async def note() -> None:
        probe = ended(NotAnImage("it is none"))
        probe.route = Route("rest", "oip", Purpose.PROBE, "GET /v2/health/ready")
        RequestLog(ALL).note(probe, 0.1)

    asyncio.run(note())
    assert lines() == []
