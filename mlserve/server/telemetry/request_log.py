"""Decide which requests get a line in the log: all, or the failed ones, with repeats counted.

A refusal costs next to nothing, and its log line must not cost more: for each reason, a few are
written in each window of time, and the rest are counted in one line at its end. If only failed
requests are logged, that applies to all of them, as ten thousand damaged images are one fact. If
all requests are logged, it applies to refusals, by the engine or before it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from mlserve.server.request import CANCELLED, OK, Purpose, RequestRecord
from mlserve.server.telemetry.log import REQUEST_LOGGER, WINDOW
from mlserve.settings import LogFormat, LogRequests, ServerSettings

LINES_OF_A_REASON = 10
"""How many failures for one reason get a line of their own in a window."""
_CALLERS_DOING = frozenset(
    (
        *("invalid_input", "not_an_image", "input_too_large", "not_found"),
        *("access_denied", "not_allowed", CANCELLED),
    )
)
"""Codes that say nothing about the server's health: logged at INFO, the others at WARNING."""
_log = logging.getLogger(REQUEST_LOGGER)


class RequestLog:
    """The lines about requests. All methods are for the event loop's thread."""

    def __init__(self, settings: ServerSettings, window_seconds: float = WINDOW) -> None:
        is_json = settings.log_format is LogFormat.JSON
        self._which = settings.log_requests or (LogRequests.ALL if is_json else LogRequests.ERRORS)
        self._window_seconds = window_seconds
        self._written: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._window: asyncio.TimerHandle | None = None
        self._since = 0.0

    def note(self, ended: RequestRecord, seconds: float) -> None:
        """Log a request that ended after so many seconds, if requests like it are logged."""
        if self._which is LogRequests.NONE or ended.route.purpose is Purpose.PROBE:
            return
        if ended.code == OK:
            if self._which is LogRequests.ALL:
                _write(logging.INFO, ended, seconds)
        elif self._has_room_for(ended):
            level = logging.INFO if ended.code in _CALLERS_DOING else logging.WARNING
            _write(level, ended, seconds)

    def close(self) -> None:
        """Write the pending count; called when no more requests come."""
        if self._window is not None:
            self._window.cancel()
            self._end_window()

    def _has_room_for(self, ended: RequestRecord) -> bool:
        """Return whether the request gets a line of its own; it is counted if not."""
        if self._which is LogRequests.ALL and not ended.was_refused:
            return True
        reason = ended.refused or ended.code
        if self._window is None:
            self._since = time.monotonic()
            self._window = asyncio.get_running_loop().call_later(
                self._window_seconds, self._end_window
            )
        has_room = self._written[reason] < LINES_OF_A_REASON
        (self._written if has_room else self._held)[reason] += 1
        return has_room

    def _end_window(self) -> None:
        seconds = round(time.monotonic() - self._since, 1)
        held = dict(self._held.most_common())
        self._window = None
        self._written.clear()
        self._held.clear()
        if held:
            counts = ", ".join(f"{reason} {count}" for reason, count in held.items())
            total = sum(held.values())
            _log.warning(
                "requests: %d more failed in the last %g s: %s",
                *(total, seconds, counts),
                extra={"fields": {"failed": held}},
            )


def _write(level: int, ended: RequestRecord, seconds: float) -> None:
    what = ended.route.purpose.value if ended.code == OK else f"{ended.route.purpose.value} failed"
    _log.log(level, what, extra={"fields": _fields(ended, seconds)})


def _fields(ended: RequestRecord, seconds: float) -> dict[str, Any]:
    """Return what is known of the request; unknown fields are left out."""
    route, span = ended.route, ended.span
    fields = {
        "code": ended.code,
        "error": ended.error,
        "refused": ended.refused,
        "api": route.api,
        "transport": route.transport,
        "token": ended.caller.token,
        "path": route.path,
        "model": ended.model,
        "version": ended.version,
        "signature": ended.signature,
        "bytes_in": ended.bytes_in,
        **{f"{name}_ms": round(s * 1000, 3) for name, s in ended.times.reached()},
        "total_ms": round(seconds * 1000, 3),
        "request_id": ended.request_id,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}
