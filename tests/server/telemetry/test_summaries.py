"""Many failures are one fact: which requests get a line of their own, and which are counted."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from mlserve.errors import DeadlineExceeded, NotAnImage, Overloaded
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.telemetry.request_log import LINES_OF_A_REASON, RequestLog
from mlserve.settings import LogFormat, LogRequests, ServerSettings

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


def test_a_window_ends_by_itself_and_the_next_begins(lines: Any, wait: Any) -> None:
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
