"""The roster: one small actor to which all replicas report, and which tells them what is wanted.

It computes nothing and keeps nothing on disk. If it dies, Ray starts it again, empty: within a
report's time all replicas are in it, and the front repeats its wishes when it sees another epoch.
Requests of clients never pass here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mlserve_ray.reports import Answer, ReplicaState, Report, Seen, Snapshot, Wishes

NAMESPACE = "mlserve"
LOST_AFTER = 5.0
"""Seconds without a report after which a replica counts as lost; it reports twice a second."""
_FORGOTTEN_AFTER = 60.0
_MOST_LINES = 5000
"""Log lines that wait for the front."""
_FRONT_GONE_AFTER = 10.0
"""Seconds without a front after which another one may take over."""


def roster_name(server: str) -> str:
    """Return the name of the actor for the server of that name."""
    return f"mlserve-roster-{server}"


@dataclass(slots=True)
class _Entry:
    report: Report
    at: float


class Roster:
    """The actor. `report` is called by replicas, everything else by the front."""

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._serial = 0
        self._entries: dict[str, _Entry] = {}
        self._wishes: Wishes | None = None
        self._lines: deque[tuple[str, str]] = deque(maxlen=_MOST_LINES)
        self._lost_lines = 0
        self._front = ""
        self._front_seen = time.monotonic()
        self._changed = asyncio.Event()

    async def report(self, report: Report, lines: Sequence[str] = (), lost: int = 0) -> Answer:
        """Note what a replica says of itself, and its log lines; return what is wanted of it."""
        before = self._entries.get(report.id)
        self._entries[report.id] = _Entry(report, time.monotonic())
        self._note_lines(report.id, lines, lost)
        if before is None or lines or _is_news(before.report, report):
            self._tell()
        return self._answer(report)

    async def leave(self, replica: str, lines: Sequence[str] = ()) -> None:
        """Forget a replica that has ended."""
        self._note_lines(replica, lines, 0)
        self._entries.pop(replica, None)
        self._tell()

    async def take(self, front: str, dead: str = "") -> str:
        """Have that front be the one that this roster works for.

        Return another front that does so now and was heard of lately, or an empty string. `dead` is
        one that is known to have ended.
        """
        is_taken = self._front not in ("", front, dead)
        if is_taken and time.monotonic() - self._front_seen < _FRONT_GONE_AFTER:
            return self._front
        self._front, self._front_seen = front, time.monotonic()
        return ""

    async def wish(self, wishes: Wishes) -> None:
        """Set what is wanted of the replicas."""
        self._wishes = wishes

    async def watch(self, front: str, after: int, seconds: float) -> Snapshot:
        """Return what is known once it differs from the serial `after`, or after some seconds."""
        self._front, self._front_seen = front, time.monotonic()
        if self._serial == after:
            self._changed.clear()
            with suppress(TimeoutError):  # the ages of the reports are news, too
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self._snapshot()

    def _tell(self) -> None:
        self._serial += 1
        self._changed.set()

    def _note_lines(self, replica: str, lines: Sequence[str], lost: int) -> None:
        room = _MOST_LINES - len(self._lines)
        self._lost_lines += lost + max(0, len(lines) - room)
        self._lines.extend((replica, line) for line in lines)

    def _answer(self, report: Report) -> Answer:
        wishes, age = self._wishes, time.monotonic() - self._front_seen
        if wishes is None:
            return Answer(front_age=age)
        versions = wishes.by_replica.get(report.id, wishes.default)
        offers = (wishes.offers.get(version) for version in report.lacks)
        found = tuple(offer for offer in offers if offer is not None)
        return Answer(versions, found, report.id in wishes.removed, age)

    def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        for replica, entry in list(self._entries.items()):
            if now - entry.at > _FORGOTTEN_AFTER:
                del self._entries[replica]
        lines, lost = tuple(self._lines), self._lost_lines
        self._lines.clear()
        self._lost_lines = 0
        seen = tuple(Seen(_by_age(entry, now), now - entry.at) for entry in self._entries.values())
        return Snapshot(self._epoch, self._serial, seen, lines, lost)


def _by_age(entry: _Entry, now: float) -> Report:
    has_failed = entry.report.state is ReplicaState.FAILED
    if has_failed or now - entry.at <= LOST_AFTER:
        return entry.report
    return replace(entry.report, state=ReplicaState.LOST)


def _is_news(before: Report, now: Report) -> bool:
    """Return whether something besides the load has changed."""
    return replace(now, load=before.load) != before
