"""How a loaded version stands to its certificate: asked as it is loaded, and while it is served.

A version with golden inputs is ready once a few of them are answered right here, by this runtime
on this device. The rest are asked while it serves, and one of them again and again: a driver, a
library or the machine itself may change under a server that runs for months.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mlserve.artifact import Artifact
from mlserve.backend import Runner, RunsOn, runs_on
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase, read_golden
from mlserve.certificate.verdict import CaseVerdict, case_verdict
from mlserve.errors import MlserveError, ModelLoadFailed, Unavailable
from mlserve.load_options import OnDrift
from mlserve.server.models.versions import ModelSpec

_log = logging.getLogger(__name__)
_SHARE = 0.08
"""The share of the time that a version took to load, which the first golden inputs may take."""
_FAULT_SECONDS = 5.0
"""How long a version with a wrong answer is asked on, so that more than the first is named."""
_LISTED = 4
_SERVE = "export the model on such a machine, or serve it all the same: --on-drift serve"


class CertificateState(StrEnum):
    """What is known of a version's answers here."""

    NONE = "none"
    """It has no golden inputs."""
    CHECKING = "checking"
    """Those that were asked were answered right; others have not been asked yet."""
    HOLDS = "holds"
    DRIFTED = "drifted"


@dataclass(eq=False)
class Standing:
    """The golden inputs of a loaded version, and what became of each.

    Used on the thread that loads it, then on the event loop's only.
    """

    runs_on: RunsOn
    certificate: Certificate | None = None
    cases: Sequence[GoldenCase] = ()
    on_drift: OnDrift = OnDrift.REFUSE
    verdicts: dict[str, CaseVerdict] = field(default_factory=dict)
    """The latest by the name of the golden input."""
    served_by: str = field(default="", init=False)
    """What answers say of the version: `wire.headers.SERVED_BY`."""
    rungs: Mapping[str, tuple[int, Certificate]] = field(default_factory=dict)
    """Of a model on a ladder, the rung that each golden input is for, and its certificate."""
    asked_at: float = field(default_factory=time.monotonic)
    has_drifted: bool = field(default=False, init=False)
    """Whether the latest answer to any golden input is wrong; looked at by each request."""
    was_right: bool | None = field(default=True, init=False)
    """Whether the latest golden input was answered right; None if it was not answered."""
    _next: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._describe()

    @property
    def state(self) -> CertificateState:
        """What is known now."""
        if self.certificate is None:
            return CertificateState.NONE
        if self.has_drifted:
            return CertificateState.DRIFTED
        return CertificateState.HOLDS if self.is_asked else CertificateState.CHECKING

    @property
    def problems(self) -> list[CaseVerdict]:
        """The golden inputs whose latest answer is wrong, the farthest first."""
        wrong = [verdict for verdict in self.verdicts.values() if verdict.problem]
        return sorted(wrong, key=lambda verdict: -verdict.difference)

    @property
    def difference(self) -> float:
        """The largest difference from the reference so far."""
        return max((verdict.difference for verdict in self.verdicts.values()), default=0.0)

    @property
    def is_asked(self) -> bool:
        """Whether every golden input has been asked."""
        return len(self.verdicts) == len(self.cases)

    @property
    def progress(self) -> str:
        """How many golden inputs were answered, and how well, in words; empty if it has none."""
        if self.certificate is None:
            return ""
        asked, cases = len(self.verdicts), len(self.cases)
        so_far = "" if asked == cases else f" so far ({cases} in all)"
        # The rungs of a ladder have a tolerance each, and each is judged by its own.
        allowed = "" if self.rungs else f" of {self.certificate.tolerance:.2g} allowed"
        return (
            f"{asked - len(self.problems)} of {asked} golden inputs are answered right{so_far}, "
            f"largest difference {self.difference:.2g}{allowed}"
        )

    @property
    def fault(self) -> str:
        """What is wrong, in words; empty if nothing is known to be."""
        problems = self.problems
        if not problems:
            return ""
        listed = "; ".join(f"{each.name}: {each.problem}" for each in problems[:_LISTED])
        more = "; ..." if len(problems) > _LISTED else ""
        return (
            f"{len(problems)} of {len(self.verdicts)} golden inputs are answered wrong here "
            f"({self.runs_on}): {listed}{more}"
        )

    def refusal(self, what: str) -> MlserveError | None:
        """Return the error of a call while the answers are wrong; None if it is to be served."""
        if not self.has_drifted or self.on_drift is OnDrift.SERVE:
            return None
        return Unavailable(f"{what} is not served: {self.fault}", hint=_SERVE)

    def rung_of(self, case: GoldenCase) -> int | None:
        """Return the place of the rung that the golden input is for; None without a ladder."""
        return self.rungs[case.name][0] if self.rungs else None

    def certificate_of(self, case: GoldenCase) -> Certificate:
        """Return the certificate that the golden input belongs to."""
        if self.rungs:
            return self.rungs[case.name][1]
        assert self.certificate is not None, "it has golden inputs"
        return self.certificate

    def next_case(self) -> GoldenCase | None:
        """Return the golden input to ask next: one that is wrong or unasked, else each in turn."""
        if not self.cases:
            return None
        count = len(self.cases)
        order = (at % count for at in range(self._next, self._next + count))
        chosen = next((at for at in order if self._is_due(self.cases[at])), self._next)
        self._next = (chosen + 1) % count
        return self.cases[chosen]

    def _is_due(self, case: GoldenCase) -> bool:
        verdict = self.verdicts.get(case.name)
        return verdict is None or bool(verdict.problem)

    def note(self, verdict: CaseVerdict) -> bool:
        """Take the answer to a golden input; return whether the state has changed."""
        before = self.state
        self.verdicts[verdict.name] = verdict
        self.asked_at, self.was_right = time.monotonic(), not verdict.problem
        self._describe()
        return self.state is not before

    def note_unanswered(self) -> None:
        """Take note of a golden input that could not be answered, for want of time or memory."""
        self.asked_at, self.was_right = time.monotonic(), None

    def _describe(self) -> None:
        self.has_drifted = any(verdict.problem for verdict in self.verdicts.values())
        text = f"{self.runs_on}; certificate={self.state}"
        self.served_by = text.encode("ascii", "replace").decode()


def begin(source: ModelSpec, artifact: Artifact, runner: Runner, load_seconds: float) -> Standing:
    """Ask a version that has just been loaded its first golden inputs, at least one.

    Together they take up to about 8 % of `load_seconds`, or five seconds once one is answered
    wrong. Raises ModelLoadFailed for golden inputs that cannot be read, and for wrong answers
    unless `--on-drift serve` says otherwise.
    """
    standing = read(source, artifact, runner)
    if standing.certificate is None:
        return standing
    started = time.monotonic()
    for count, case in enumerate(standing.cases, 1):
        standing.note(case_verdict(runner, case, standing.certificate))
        taken, room = time.monotonic() - started, _SHARE * load_seconds
        if standing.has_drifted:
            room = max(room, _FAULT_SECONDS)
        if taken + taken / count > room:
            break
    what = f"version {artifact.version} of {source.model}"
    if standing.refusal(what) is not None:
        raise ModelLoadFailed(
            f"{what} does not give the answers of its certificate: {standing.fault}", hint=_SERVE
        )
    if standing.problems:
        _log.warning("%s is served all the same: %s", what, standing.fault)
    return standing


def read(source: ModelSpec, artifact: Artifact, runner: Runner) -> Standing:
    """Return the standing of a version that has not been asked yet. Raises ModelLoadFailed."""
    manifest = artifact.manifest
    where = runs_on(runner, source.backend.name, manifest)
    on_drift = source.options.on_drift or OnDrift.REFUSE
    certificate = None if manifest is None else manifest.certificate
    if certificate is None:
        return Standing(where, on_drift=on_drift)
    return Standing(where, certificate, read_golden(artifact.path), on_drift)
