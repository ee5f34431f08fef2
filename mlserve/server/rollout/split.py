"""A share of a model's requests goes to another version, until that one shows to be worse.

A request that names no version goes to the other one if a hash of its id says so: the same id has
the same answer's version at each try, on every replica. So chance alone decides who gets which
request, and that is what the tests rest on.

- *Goodput*: were the versions alike, each request that is not answered in time would have been
  given to the other version with the probability `share`, however many there are, when, and why.
  More of them than that are a sign that it is worse.
- *Disagreement*: of the requests that the other version answered, the version in use is asked part,
  beside the real calls. More than the part `differ` of them may not differ.

Both are tested after each request, validly at every moment (`mlserve.sequential`), at half of
`ALPHA` each: a version that is no worse is stopped with a probability of at most `ALPHA`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from mlserve.errors import NotFound
from mlserve.percentiles import Percentiles
from mlserve.rollout import Split
from mlserve.sequential import RiseTest
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import Job
from mlserve.server.models.models import Models
from mlserve.server.models.versions import State
from mlserve.server.request import OK, RequestRecord
from mlserve.server.rollout.companions import VersionInUse
from mlserve.server.rollout.mirror import Mirror, Result
from mlserve.server.rollout.tally import Tally
from mlserve.server.telemetry.metrics import Metrics
from mlserve.wire.rollouts import Arm, RolloutState, how_to_go_on, percent
from mlserve.wire.rollouts import Split as SplitReport

_log = logging.getLogger(__name__)
ALPHA = 0.01
"""The probability of at most which a version that is no worse is ever stopped."""
_TIMES = 1000
"""The latest times of answers that percentiles are of."""
_IDS = 10_000
"""The latest ids of requests that were not answered: a retry is no further request."""
_RESULTS = {"deadline_exceeded": "late", "overloaded": "refused"}
"""What became of a request, by its code: late, refused, or else failed."""


@dataclass(slots=True)
class _Arm:
    """What became of the requests that one version got."""

    version: int
    asked: int = 0
    answered: int = 0
    lost: dict[str, int] = field(default_factory=lambda: {"late": 0, "refused": 0, "failed": 0})
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES))

    def note(self, code: str, seconds: float) -> str:
        """Count a request; return what became of it."""
        self.asked += 1
        if code == OK:
            self.answered += 1
            self.seconds.append(seconds)
            return "answered"
        result = _RESULTS.get(code, "failed")
        self.lost[result] += 1
        return result

    def report(self) -> Arm:
        times = Percentiles.from_values([1000 * seconds for seconds in self.seconds])
        p50, p99 = (None, None) if times is None else (times.p50, times.p99)
        return Arm(self.version, self.asked, self.answered, **self.lost, p50_ms=p50, p99_ms=p99)


class ModelSplit:
    """The split of one model. All methods are for the event loop's thread."""

    def __init__(
        self, model: str, rule: Split, engine: Engine, models: Models, metrics: Metrics
    ) -> None:
        self._model = model
        self._rule = rule
        self._models = models
        self._metrics = metrics
        self._why = self._stopped_at = ""
        self._tally = Tally("the version in use")
        companion = VersionInUse(models, model, engine.settings)
        self._mirror = Mirror(engine, companion, self._tally, self._told)
        self._begin()

    @property
    def version(self) -> int:
        """The version that gets a share."""
        return self._rule.version

    @property
    def is_stopped(self) -> bool:
        """Whether it was found to be worse."""
        return bool(self._why)

    @property
    def share(self) -> float:
        """The share that it gets now."""
        is_running = self.state is RolloutState.RUNNING
        return self._rule.share if is_running else 0.0

    @property
    def state(self) -> RolloutState:
        """What the split does now."""
        base = self._models.base_of(self._model)
        if base is not None and base.version == self.version:
            return RolloutState.IN_USE
        if self.is_stopped:
            return RolloutState.STOPPED
        if self._models.beside_of(self._model) is not None:
            return RolloutState.RUNNING
        is_coming, error = self._trouble()
        return RolloutState.FAILED if error and not is_coming else RolloutState.LOADING

    def choose(self, record: RequestRecord) -> int | None:
        """Return the version for a request that names none; None for the one in use."""
        models, model = self._models, self._model
        base, other = models.base_of(model), models.beside_of(model)
        if self.is_stopped or base is None or other is None or other.version != self.version:
            return None
        if base.version not in self._arms:
            self._begin(base.version)
            what = model, self.version, percent(self._rule.share), base.version
            _log.info("the split of %s begins: version %d gets %s, beside version %d", *what)
        record.model = model  # also of a request that fails before it is given to a version
        is_other = self._place(record, "split") < self._rule.share
        record.arm = self.version if is_other else base.version
        return self.version if is_other else None

    def entered(self, job: Job[Any]) -> None:
        """Have the work keep what it is asked, if the version in use is to be asked the same."""
        if self._is_checked(job):
            job.work.keeps = self._mirror.wants

    def finished(self, job: Job[Any], question: Any) -> None:
        """Ask the version in use what the other one has answered."""
        if not self._is_checked(job):
            return
        if question is None:
            signature = job.work.signature
            self._mirror.drop("" if signature is None else signature.name)
        else:
            self._mirror.offer(question)

    def note_change(self) -> None:
        """Take note that there may be room to ask."""
        self._mirror.note_change()

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """Count a request that was given to one of the two."""
        arm = None if record.arm is None else self._arms.get(record.arm)
        if arm is None:  # the version in use was another one when it came
            return
        result = arm.note(record.code, seconds)
        self._metrics.split_request(self._model, str(arm.version), result)
        if result == "answered" or not self._is_first(record.request_id):
            return
        if self._worse.add(arm.version == self.version):
            self._stop("its goodput is worse")

    def look(self) -> None:
        """Begin anew if the other version has become the one in use."""
        base = self._models.base_of(self._model)
        if base is not None and base.version == self.version and (self._arms or self._why):
            self._why = self._stopped_at = ""
            self._begin()

    def report(self) -> SplitReport:
        """Return how it stands."""
        _, error = self._trouble()
        return SplitReport(
            self._model,
            self.version,
            self._rule.share,
            self.state,
            tuple(arm.report() for arm in self._arms.values()),
            self._tally.report(),
            self._why,
            self._stopped_at,
            error,
        )

    async def close(self) -> None:
        """Ask nothing more."""
        await self._mirror.close()

    def _begin(self, base: int | None = None) -> None:
        """Count from now on how the two versions do."""
        versions = () if base is None else (base, self.version)
        self._arms = {version: _Arm(version) for version in versions}
        self._worse = RiseTest(self._rule.share, ALPHA / 2)
        self._unlike = RiseTest(self._rule.differ, ALPHA / 2)
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._mirror.begin("the version in use" if base is None else f"version {base}")

    def _is_checked(self, job: Job[Any]) -> bool:
        """Return whether the version in use is to be asked the same as this call of the other."""
        return (
            job.record.arm == self.version == job.loaded.version
            and not self.is_stopped
            and self._place(job.record, "check") < self._rule.check
        )

    def _place(self, record: RequestRecord, what: str) -> float:
        """Return a number from 0 to below 1 that is always the same for a request's id."""
        text = f"{what} {self._model} {self.version} {record.request_id}"
        digest = blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    def _is_first(self, request_id: str) -> bool:
        if request_id in self._ids:
            return False
        self._ids[request_id] = None
        if len(self._ids) > _IDS:
            self._ids.popitem(last=False)
        return True

    def _told(self, result: Result) -> None:
        """Take what came of asking the version in use."""
        self._metrics.split_check(self._model, result.word)
        if result.compared is not None and self._unlike.add(bool(result.compared.what)):
            self._stop(f"more than {percent(self._rule.differ)} of its answers differ")

    def _stop(self, why: str) -> None:
        """Give all requests to the version in use again, until the server is told otherwise."""
        if self.is_stopped:
            return
        self._why = why
        self._stopped_at = datetime.now(UTC).isoformat(timespec="seconds")
        arms = "; ".join(str(arm.report()) for arm in self._arms.values())
        _log.warning(
            "the split of %s is stopped, and version %d gets no more requests that name none, as "
            "%s: %s; asked beside version %d: %s; %s",
            *(self._model, self.version, why, arms, self.version, self._tally.counts),
            how_to_go_on(self.version),
        )

    def _trouble(self) -> tuple[bool, str]:
        """Return whether the other version is still to come, and why it is not there now.

        The reason is empty if nothing is known against it.
        """
        try:
            (status,) = self._models.statuses(self._model, self.version)
        except NotFound as error:
            return False, error.message if self._models.base_of(self._model) is not None else ""
        return status.state is State.START, "" if status.error is None else status.error.message
