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
from typing import TYPE_CHECKING, Any, NoReturn

from mlserve.admission.estimates import CostKey
from mlserve.backend import limit_threads
from mlserve.background import run_on_daemon_thread
from mlserve.certificate.golden import Arrays, GoldenCase
from mlserve.certificate.verdict import (
    CaseVerdict,
    answer_of,
    can_be_asked_together,
    failed,
    held_to,
    judge_case,
    verdict_in_company,
)
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, Overloaded, Unavailable
from mlserve.ladder.climb import rung_of
from mlserve.server.engine.beside import Nobody
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.work import Codec, Work
from mlserve.server.errors import as_exception, as_known_error
from mlserve.server.models.loading import LoadedVersion, Served
from mlserve.server.models.models import Models
from mlserve.server.models.standing import Standing
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
_ASK_SECONDS = 0.25
"""How long the unasked golden inputs of a version are asked in one look: half of an idle time."""
_PATIENCE = 60.0
"""Seconds after which other versions are asked, although a golden question is not answered yet."""
_UNANSWERED = (Unavailable, DeadlineExceeded, Overloaded)
"""Errors that say nothing about the answers: a process ended, or there was no time or memory."""


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
        self._questions: dict[LoadedVersion, asyncio.Task[None]] = {}
        """The question of each version that is not answered yet. Its lease ends with it."""

    async def run(self) -> NoReturn:
        """Ask until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.ask_due()
            except Exception:  # noqa: BLE001 - the next look may succeed
                _log.exception("asking the golden inputs failed")

    async def ask_due(self) -> None:
        """Ask about each version that is due, as long as nothing else is asked.

        One question, or as many of those that are not answered right yet as a short time allows: a
        model may have thousands.
        """
        for loaded in list(self._models.loaded()):
            until = time.monotonic() + _ASK_SECONDS
            while self._may_ask(loaded) and (case := loaded.standing.next_case()) is not None:
                await self._ask(loaded, case)
                if not _goes_on(loaded.standing) or time.monotonic() >= until:
                    break

    def _may_ask(self, loaded: LoadedVersion) -> bool:
        """Return whether to ask that version now; it may have been unloaded since it was listed."""
        engine, standing = self._engine, loaded.standing
        return (
            time.monotonic() - standing.asked_at >= self._pause(standing)
            and not (engine.unfinished or engine.is_draining)
            and loaded not in self._questions
            and loaded.is_alive
            and any(each is loaded for each in self._models.loaded())
        )

    def _pause(self, standing: Standing) -> float:
        """Return the seconds from the version's last question to its next."""
        if _goes_on(standing):
            return 0.0
        probe = self._probe_seconds
        return min(probe, _RETRY_SECONDS) if standing.problems else probe

    async def _ask(self, loaded: LoadedVersion, case: GoldenCase) -> None:
        """Ask, and wait for the answer; not for ever, as a runtime cannot be interrupted.

        The question goes on if this is cancelled: the Runner is in use until it ends.
        """
        question = asyncio.create_task(self._asked(loaded.lease(), case))
        self._questions[loaded] = question
        answered, _ = await asyncio.wait((question,), timeout=_PATIENCE)
        if not answered:
            what = loaded.version, loaded.model, case.name, _PATIENCE
            _log.error("version %d of %s has not answered golden input %s within %g s", *what)

    async def _asked(self, leased: LoadedVersion, case: GoldenCase) -> None:
        with leased as loaded:
            try:
                if loaded.processes is None:
                    verdict = await run_on_daemon_thread(_judged_here, loaded, case)
                else:
                    verdict = await self._judged_elsewhere(loaded, case)
            except _UNANSWERED as error:
                loaded.standing.note_unanswered()
                what = loaded.version, loaded.model, case.name, error.message
                _log.warning("version %d of %s: golden input %s is not answered: %s", *what)
                return
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is its answer
                verdict = failed(case, as_known_error(error).message)
            finally:
                del self._questions[loaded]
        self._note(loaded, verdict)

    def _note(self, loaded: LoadedVersion, verdict: CaseVerdict) -> None:
        standing = loaded.standing
        if standing.note(verdict):
            _log.log(
                logging.ERROR if standing.problems else logging.INFO,
                "version %d of %s: certificate=%s%s",
                loaded.version,
                loaded.model,
                standing.state,
                f": {standing.fault}" if standing.problems else "",
            )
            self._on_change()

    async def _judged_elsewhere(self, loaded: LoadedVersion, case: GoldenCase) -> CaseVerdict:
        """Ask in one of the version's processes. Raises what the question ended with."""
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
            Nobody(),
        )
        work.threads, work.only_rung = 1, loaded.standing.rung_of(case)

        def done(_: Sequence[int] | BaseException) -> None:
            if not ended.done():
                ended.set_result(None)

        loaded.processes.submit([work], done)
        await ended
        if work.error is not None:
            raise work.error
        assert work.result is not None
        signature = loaded.runner.signatures[case.signature]
        certificate = loaded.standing.certificate_of(case)
        return held_to(certificate, case, answer_of(signature, work.result))


def _goes_on(standing: Standing) -> bool:
    """Return whether a golden input is unasked or wrong, and the last question says to go on."""
    if standing.was_right is None:
        return False
    return not standing.is_asked or (standing.was_right and standing.has_drifted)


def _judged_here(loaded: LoadedVersion, case: GoldenCase) -> CaseVerdict:
    """Ask on this thread. Raises what the runtime does, as an Exception."""
    try:
        limit_threads(loaded.runner, 1)
        runner = rung_of(loaded.runner, loaded.standing.rung_of(case))
        certificate, other = loaded.standing.certificate_of(case), _company_of(loaded, case)
        if other is None:
            return judge_case(runner, case, certificate)
        return verdict_in_company(runner, case, other, certificate)
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception, as in `Work`
        raise as_exception(error) from None


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
