"""Statistics of each served version, counted by Triton's rules.

Triton's statistics extension: a request counts once, as a success or a failure, and the times of
its stages only if it succeeded; an execution is a run of the model that gave outputs; inferences
are the rows of the executions, however their requests ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlserve.server.request import OK, Purpose, RequestRecord, StageTimes

_MOST_SIZES = 4096
"""The most batch sizes counted separately for a version; callers choose them, hence a limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """A run of the model that gave outputs, for one call or for several as a batch.

    `rows` are those of all its calls together, `times` those of each call.
    """

    model: str
    version: int
    rows: int
    times: Sequence[StageTimes]


@dataclass(slots=True)
class Total:
    """A count, and the total time in nanoseconds."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, seconds: float) -> None:
        """Count one that took so many seconds."""
        self.count += 1
        self.nanoseconds += round(seconds * 1e9)


@dataclass(slots=True)
class BatchTotals:
    """The executions of one batch size, which is a number of rows."""

    decode: Total = field(default_factory=Total)
    run: Total = field(default_factory=Total)
    encode: Total = field(default_factory=Total)


@dataclass(slots=True)
class VersionStatistics:
    """One version since the server started. `last_request` is seconds since the epoch, or 0."""

    last_request: float = 0.0
    inferences: int = 0
    executions: int = 0
    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    decode: Total = field(default_factory=Total)
    run: Total = field(default_factory=Total)
    encode: Total = field(default_factory=Total)
    batches: dict[int, BatchTotals] = field(default_factory=dict)

    def request(self, ended: RequestRecord, seconds: float) -> None:
        """Count a request that was given this version."""
        self.last_request = time.time()
        if ended.code != OK:
            self.fail.add(seconds)
            return
        self.success.add(seconds)
        self.queue.add(ended.times.queue)
        self.decode.add(ended.times.decode)
        self.run.add(ended.times.run)
        self.encode.add(ended.times.encode)

    def execution(self, ended: Execution) -> None:
        """Count a run of the model, once its answers are written."""
        self.executions += 1
        self.inferences += ended.rows
        totals = self.batches.get(ended.rows)
        if totals is None and len(self.batches) < _MOST_SIZES:
            totals = self.batches[ended.rows] = BatchTotals()
        if totals is not None:
            totals.decode.add(sum(times.decode for times in ended.times))
            totals.run.add(ended.times[0].run)  # the run that they shared
            totals.encode.add(sum(times.encode for times in ended.times))


class Statistics:
    """The statistics of one server, by model and version."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], VersionStatistics] = {}

    def of(self, model: str, version: int) -> VersionStatistics:
        """Return those of that version; zeros if it has had no request yet."""
        return self._versions.get((model, version)) or VersionStatistics()

    def request(self, ended: RequestRecord, seconds: float) -> None:
        """Count a request that ended, if it was given a version."""
        if ended.route.purpose is Purpose.PREDICT and ended.version is not None:
            self._kept(ended.model, ended.version).request(ended, seconds)

    def execution(self, ended: Execution) -> None:
        """Count a run of the model that gave outputs."""
        self._kept(ended.model, ended.version).execution(ended)

    def _kept(self, model: str, version: int) -> VersionStatistics:
        known = self._versions.get((model, version))
        if known is None:  # made only then: it takes longer than to count a request
            known = self._versions[model, version] = VersionStatistics()
        return known
