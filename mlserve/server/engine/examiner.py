"""Ask the golden inputs of what is served, while nothing else is asked.

Those that were not asked as a version was loaded come first; then one a minute, as what runs a
model can change under the server. A question runs beside the engine and not in its queue, on one
CPU thread, and only begins when no call runs or waits: a call that comes meanwhile shares the CPU
with one run of the model at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from mlserve.backend import limit_threads
from mlserve.background import run_on_daemon_thread
from mlserve.certificate.golden import Arrays, GoldenCase
from mlserve.certificate.verdict import (
    CaseVerdict,
    answer_of,
    can_be_asked_together,
    case_verdict,
    failed,
    held_to,
    verdict_in_company,
)
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, MlserveError, Unavailable
from mlserve.ladder.climb import rung_of
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.estimates import CostKey
from mlserve.server.engine.work import Codec, Work
from mlserve.server.errors import as_known_error
from mlserve.server.models.loading import LoadedVersion, Served
from mlserve.server.models.models import Models
from mlserve.server.request import StageTimes
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_log = logging.getLogger(__name__)
PROBE_SECONDS = 60.0
"""The time between two golden questions about a version whose answers are right."""
_RETRY_SECONDS = 5.0
"""The same while answers are wrong, so that a version is served again soon after they are right."""
_LOOK_SECONDS = 0.25
"""The time between two looks for a question to ask, and for a server that is idle."""
_PATIENCE = 60.0
"""Seconds in which a golden question must be answered."""


class Examiner:
    """Asks golden questions from the event loop. `on_change` is called when a state changes."""

    def __init__(
        self,
        engine: Engine,
        models: Models,
        on_change: Callable[[], None],
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._engine = engine
        self._models = models
        self._on_change = on_change
        self._probe_seconds = probe_seconds

    async def run(self) -> NoReturn:
        """Ask until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._engine.unfinished:
                await self.ask_due()

    async def ask_due(self) -> None:
        """Ask one question about each version that is due."""
        for loaded in [each for each in self._models.loaded() if self._is_due(each)]:
            if self._engine.unfinished or self._engine.is_draining:
                return  # a request came during the last question
            case = loaded.standing.next_case() if loaded.is_alive else None
            if case is not None:
                await self._ask(loaded, case)

    def _is_due(self, loaded: LoadedVersion) -> bool:
        standing = loaded.standing
        wait = (
            min(self._probe_seconds, _RETRY_SECONDS) if standing.problems else self._probe_seconds
        )
        return not standing.is_asked or time.monotonic() - standing.asked_at >= wait

    async def _ask(self, loaded: LoadedVersion, case: GoldenCase) -> None:
        standing = loaded.standing
        verdict: CaseVerdict | None
        with loaded.lease():
            if loaded.processes is None:
                verdict = await run_on_daemon_thread(_judged_here, loaded, case)
            else:
                verdict = await self._judged_elsewhere(loaded, case)
        if verdict is not None and standing.note(verdict):
            _log.log(
                logging.ERROR if standing.problems else logging.INFO,
                "version %d of %s: certificate=%s%s",
                loaded.version,
                loaded.model,
                standing.state,
                f": {standing.fault}" if standing.problems else "",
            )
            self._on_change()

    async def _judged_elsewhere(
        self, loaded: LoadedVersion, case: GoldenCase
    ) -> CaseVerdict | None:
        """Ask in one of the version's processes; return None if it gave no answer, as it ended."""
        assert loaded.processes is not None
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        work = Work(
            GoldenCodec(case.signature, case.inputs),
            loaded.served,
            loaded.runner,
            self._engine.settings,
            CostKey.from_rows(loaded.model, loaded.version, case.signature, 1),
            Deadline.after(_PATIENCE),
            StageTimes(),
            _Nobody(),
        )
        work.threads, work.only_rung = 1, loaded.standing.rung_of(case)

        def done(_: Sequence[int] | BaseException) -> None:
            if not ended.done():
                ended.set_result(None)

        loaded.processes.submit([work], done)
        await ended
        if isinstance(work.error, Unavailable | DeadlineExceeded):
            _log.warning("%s of %s was not answered: %s", case.name, loaded.model, work.error)
            return None
        if work.error is not None:
            return failed(case, as_known_error(work.error).message)
        assert work.result is not None
        signature = loaded.runner.signatures[case.signature]
        certificate = loaded.standing.certificate_of(case)
        return held_to(certificate, case, answer_of(signature, work.result))


def _judged_here(loaded: LoadedVersion, case: GoldenCase) -> CaseVerdict:
    limit_threads(loaded.runner, 1)
    runner = rung_of(loaded.runner, loaded.standing.rung_of(case))
    certificate, other = loaded.standing.certificate_of(case), _company_of(loaded, case)
    try:
        if other is None:
            return case_verdict(runner, case, certificate)
        return verdict_in_company(runner, case, other, certificate)
    except Exception as error:  # noqa: BLE001 - of a runtime: the next questions must be asked
        return failed(case, as_known_error(error).message)


def _company_of(loaded: LoadedVersion, case: GoldenCase) -> GoldenCase | None:
    """Return the golden input to ask together with that one; None if calls share no batch."""
    standing = loaded.standing
    asked = {case.signature: loaded.runner.signatures[case.signature]}
    if standing.rungs or not can_be_asked_together(loaded.artifact.manifest, asked):
        return None
    own = [each for each in standing.cases if each.signature == case.signature]
    return own[(own.index(case) + 1) % len(own)] if len(own) > 1 else None


class GoldenCodec(Codec[Arrays]):
    """A golden question: arrays in, arrays out."""

    def __init__(self, signature: str, inputs: Arrays) -> None:
        self._signature = signature
        self._inputs = dict(inputs)

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        return signatures[self._signature], self._inputs

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> Arrays:
        return dict(outputs)


@dataclass
class _Nobody:
    """The caller of a golden question: it never leaves, and has all the time in the world."""

    def has_left(self) -> bool:
        return False

    def enter(self, stage: int) -> None:
        """Do nothing: nobody asks."""

    def find_fault(self, kind: CostKey, deadline: Deadline) -> MlserveError | None:
        return None

    def bring_forward(self, work: Work[Any]) -> None:
        """Do nothing: a golden question brings no deadline."""
