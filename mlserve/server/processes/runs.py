"""What a runner process is given to do: the works of a task, and what becomes of them.

A run is answered by its process, or run again by others once that one has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlserve.errors import MlserveError, Unavailable
from mlserve.server.engine.work import Work
from mlserve.server.models.loading import Done
from mlserve.server.processes.channel import LEFT, Channel
from mlserve.server.processes.messages import Order, Report, Result
from mlserve.server.telemetry.statistics import Execution

_MOST_DEATHS = 2
"""In how many processes that died a call may have been, before it is not run again."""


@dataclass(slots=True)
class Batch:
    """Works that were submitted together, until each of them has ended."""

    unfinished: int
    done: Done
    sizes: list[int] = field(default_factory=list)

    def end(self, count: int, sizes: Sequence[int]) -> None:
        """Note the end of so many works, which ran in batches of these sizes."""
        self.sizes.extend(sizes)
        self.unfinished -= count
        if not self.unfinished:
            self.done(self.sizes)


@dataclass(slots=True, eq=False)
class Run:
    """Works of a batch that go to a process together, and in how many they were when it died."""

    works: Sequence[Work[Any]]
    batch: Batch
    deaths: int = 0
    can_run_again: bool = True

    def let_go(self) -> None:
        """Drop the requests, which are large and in a process now."""
        for work in self.works:
            self.can_run_again &= not work.codec.let_go()

    def keep_wanted(self) -> bool:
        """Drop the works that nobody waits for any more; return whether any is left."""
        wanted = [work for work in self.works if work.is_wanted()]
        gone = len(self.works) - len(wanted)
        self.works = wanted
        if gone:
            self.batch.end(gone, ())
        return bool(wanted)

    def take(self, report: Report) -> None:
        """Fill in how the works went."""
        _fill_in(self.works, report.results)
        self.batch.end(len(self.works), report.sizes)

    def after_death(self, pid: int) -> list[Run]:
        """Return the runs in its place, as the process with that id has died.

        If it died before it had begun with any of them, they are not to blame.
        """
        places = [work.elsewhere for work in self.works if work.elsewhere is not None]
        deaths = self.deaths + any(place.stage for place in places)
        for work in self.works:
            work.elsewhere = None
        if not self.can_run_again:
            self.fail(
                Unavailable(
                    f"the process that ran the request has ended ({pid}), and a request of that "
                    "size is not kept to run it again",
                    hint="ask again; the server's log says how the process ended",
                )
            )
            return []
        if deaths < _MOST_DEATHS:
            return [Run([work], self.batch, deaths) for work in self.works]
        self.fail(
            Unavailable(
                f"the process that ran the request has ended, as another one did before (the last "
                f"was {pid})",
                hint="the request may be what ends them: the server's log says how they ended",
            )
        )
        return []

    def fail(self, error: MlserveError) -> None:
        """End the works with that error."""
        for work in self.works:
            work.error = error
        self.batch.end(len(self.works), ())


class Line:
    """Where a work is that waits for a process: there may be none for as long as one loads."""

    stage = 0

    def __init__(self, look: Callable[[], None]) -> None:
        """Have `look` called on the event loop after a caller has left."""
        self._look = look

    def leave(self) -> None:
        asyncio.get_running_loop().call_soon(self._look)


@dataclass(slots=True)
class Place:
    """Where a work is done: a process, and the place in its task."""

    channel: Channel
    place: int

    @classmethod
    def begin(cls, channel: Channel, place: int) -> Place:
        """Return a place that shows nothing of the work that was there before."""
        channel.board[place] = channel.board[LEFT + place] = 0
        return cls(channel, place)

    @property
    def stage(self) -> int:
        """How far the process is with it; 0 before it has begun."""
        return self.channel.board[self.place]

    def leave(self) -> None:
        """Tell the process that nobody waits for it any more."""
        self.channel.board[LEFT + self.place] = 1


def change_room(work: Work[Any], size: int) -> MlserveError | None:
    """Count so many bytes more for reading the work's request; return why there is no room."""
    if size < 0:
        work.codec.room.give_back(-size)
        return None
    try:
        work.codec.room.take(size)
    except MlserveError as refused:
        return refused
    return None


def order_of(work: Work[Any]) -> Order:
    """Return what a process is told of a work."""
    return Order(
        work.codec,
        work.kind,
        work.deadline,
        work.entered_at,
        work.threads,
        work.only_rung,
        work.request_id,
        work.trace_id,
        work.keeps,
    )


def _fill_in(works: Sequence[Work[Any]], results: Sequence[Result]) -> None:
    shared: dict[int, list[Work[Any]]] = {}
    for work, result in zip(works, results, strict=True):
        work.elsewhere = None
        work.result, work.error = result.answer, result.error
        work.read_as, work.rungs, work.kept = result.read_as, result.rungs, result.kept
        name = result.signature
        work.signature = None if name is None else work.runner.signatures[name]
        work.times.take(result.times)
        if result.execution is not None:
            shared.setdefault(result.execution[0], []).append(work)
    rows = dict(result.execution for result in results if result.execution is not None)
    for place, together in shared.items():
        served = together[0].served
        times_of_all = tuple(work.times for work in together)
        execution = Execution(served.model, served.version, rows[place], times_of_all)
        for work in together:
            work.execution = execution
