"""Ask another version or server what has been answered already, while there is room.

A question waits in a short queue behind every real call. It is asked once nothing waits for a slot
and, with it, at most half of the slots are in use; one at a time, with a rest after each that is
nine times as long, so that nine of ten real calls meet none. If that does not come about within
`PATIENCE`, or the queue is full, it is dropped and counted. So a busy server drops most, and no
real call ever waits for one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, NoReturn, Protocol

from mlserve.background import run_on_daemon_thread
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, reason_of
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.work import Kept
from mlserve.server.rollout.comparison import compare
from mlserve.server.rollout.tally import Arrays, Compared, Tally

_log = logging.getLogger(__name__)
MOST_QUESTIONS = 32
"""The most questions that wait."""
MOST_BYTES = 64 * 2**20
"""The most bytes that they hold."""
PATIENCE = 5.0
"""Seconds that a question waits for room."""
ANSWER_SECONDS = 10.0
"""Seconds that its answer may take."""
_REST, _LONGEST_REST = 9.0, 3.0
"""How long to rest after a question, in lengths of it, and in seconds at most."""
_QUIET = 60.0
"""Seconds after a failure in the log until the next one in it."""
_SMALL = 2**16
"""Bytes below which two answers are compared at once: a thread would take longer to start."""
_LOOK = 0.05
"""Seconds between two looks for room, if nothing tells of it: a caller in the queue may leave."""


class Question(NamedTuple):
    """What was asked and answered. `api` is that of the request, tfs or oip, empty if unknown."""

    request_id: str
    api: str
    kept: Kept
    size: float
    came_at: float


class Companion(Protocol):
    """Who is asked."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked now."""

    async def ask(self, question: Question, deadline: Deadline, /) -> Arrays:
        """Return its outputs. Raises MlserveError."""


class Result(NamedTuple):
    """What came of a question: `word` is agrees, differs, failed or dropped."""

    word: str
    compared: Compared | None = None


class Mirror:
    """Asks a companion. All methods are for the event loop's thread; `tell` gets each result."""

    def __init__(
        self,
        engine: Engine,
        companion: Companion,
        tally: Tally,
        tell: Callable[[Result], None],
    ) -> None:
        self._engine = engine
        self._companion = companion
        self._tally = tally
        self._tell = tell
        self._waiting: deque[Question] = deque()
        self._held = 0.0
        self._changed = asyncio.Event()
        self._rests_until = 0.0
        self._given_up: asyncio.Task[Arrays] | None = None
        self._era = 0
        self._failures = _Failures()
        self._task = asyncio.create_task(self._run())

    @property
    def wants(self) -> bool:
        """Whether there is a place for a question."""
        return (
            self._companion.is_ready
            and len(self._waiting) < MOST_QUESTIONS
            and self._held < MOST_BYTES
            and not self._is_hung
        )

    @property
    def is_ready(self) -> bool:
        """Whether questions are asked at all, room permitting."""
        return self._companion.is_ready

    @property
    def _is_hung(self) -> bool:
        """Whether an answer that was given up has not come yet."""
        return self._given_up is not None and not self._given_up.done()

    def offer(self, question: Question) -> None:
        """Have the question asked, or drop it."""
        if not self.wants or self._held + question.size > MOST_BYTES:
            self.drop(question.kept.signature)
            return
        self._waiting.append(question)
        self._held += question.size
        self._changed.set()

    def drop(self, signature: str) -> None:
        """Count a question that is not asked."""
        self._tally.dropped(signature)
        self._tell(Result("dropped"))

    def begin(self, asked: str) -> None:
        """Count from nothing again what is asked of `asked`; forget what was to be asked before."""
        self._waiting.clear()
        self._held = 0.0
        self._era += 1
        self._given_up = None
        self._tally.begin(asked)

    def note_change(self) -> None:
        """Take note that there may be room now."""
        if self._waiting:
            self._changed.set()

    async def close(self) -> None:
        """Ask nothing more; an answer that is on its way is not waited for."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> NoReturn:
        while True:
            self._changed.clear()
            if not self._waiting:
                await self._changed.wait()
                continue
            if self._has_room():
                began = time.monotonic()
                await self._ask(self._next())
                ended = time.monotonic()
                self._rests_until = ended + min(_REST * (ended - began), _LONGEST_REST)
                continue
            now = time.monotonic()
            left = self._waiting[0].came_at + PATIENCE - now
            if left <= 0:
                self.drop(self._next().kept.signature)
                continue
            if (rest := min(left, self._rests_until - now)) > 0:
                await asyncio.sleep(rest)
                continue
            try:
                async with asyncio.timeout(min(left, _LOOK)):
                    await self._changed.wait()
            except TimeoutError:
                continue  # look again

    def _has_room(self) -> bool:
        engine = self._engine
        if self._is_hung or engine.waiting or engine.is_draining:
            return False
        if time.monotonic() < self._rests_until:
            return False
        return engine.slots_in_use + 1 <= max(1, engine.slots // 2)

    def _next(self) -> Question:
        question = self._waiting.popleft()
        self._held -= question.size
        return question

    async def _ask(self, question: Question) -> None:
        signature, era = question.kept.signature, self._era
        deadline = Deadline.after(ANSWER_SECONDS)
        # A task of its own, as what runs cannot be interrupted, and holds what it uses meanwhile.
        asking = asyncio.create_task(_answered(self._companion, question, deadline))
        asking.add_done_callback(_note_error)
        try:
            answered, _ = await asyncio.wait((asking,), timeout=ANSWER_SECONDS)
            if not answered:
                self._given_up = asking if era == self._era else None
                raise deadline.exceeded("another version was asked the same")
            other = asking.result()
            if question.size < _SMALL:
                found = compare(question.kept.outputs, other)
            else:
                found = await run_on_daemon_thread(compare, question.kept.outputs, other)
        except Exception as error:  # noqa: BLE001 - whatever it is must cost no call anything
            if era == self._era:
                self._failures.note(self._tally.asked, error)
                self._tally.failed(signature, reason_of(error))
                self._tell(Result("failed"))
            return
        if era != self._era:  # it is asked beside another version by now
            return
        self._failures.end(self._tally.asked)
        self._tally.compared(question.request_id, signature, found)
        self._tell(Result("differs" if found.what else "agrees", found))


class _Failures:
    """Logs when questions begin to fail, and when they are answered again: now and then at most."""

    def __init__(self) -> None:
        self._is_told = False
        self._quiet_until = 0.0

    def note(self, asked: str, error: Exception) -> None:
        """Take note of a failure."""
        if self._is_told or time.monotonic() < self._quiet_until:
            return
        self._is_told, self._quiet_until = True, time.monotonic() + _QUIET
        trace = None if isinstance(error, MlserveError) else error
        why = reason_of(error)
        _log.warning("%s, asked beside, does not answer: %s", asked, why, exc_info=trace)

    def end(self, asked: str) -> None:
        """Take note of an answer."""
        if self._is_told:
            self._is_told = False
            _log.info("%s, asked beside, answers again", asked)


def _note_error(asking: asyncio.Task[Arrays]) -> None:
    """Look at the error of an answer that nobody waits for any more, or asyncio logs it."""
    if not asking.cancelled():
        asking.exception()


async def _answered(companion: Companion, question: Question, deadline: Deadline) -> Arrays:
    return await companion.ask(question, deadline)
