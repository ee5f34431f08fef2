"""What the gate decides: the decisions, the rule that makes them, and what it says why."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from mlserve.client.answers import has_drifted
from mlserve.errors import DeadlineExceeded, ExitCode, MlserveError, either, shortened
from mlserve.gate.guarantee import Guarantee, OtherModel

if TYPE_CHECKING:
    from mlserve.client import Prediction


class Decision(StrEnum):
    """What becomes of a part."""

    ACCEPT = "accept"
    ASK = "ask"
    REJECT = "reject"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command that decides so."""
        return _EXIT_CODES[self]

    def at_least(self, other: Decision) -> Decision:
        """Return the stricter of the two."""
        return max(self, other, key=_STRICTNESS.index)


_STRICTNESS = (Decision.ACCEPT, Decision.ASK, Decision.REJECT)
_EXIT_CODES = {
    Decision.ACCEPT: ExitCode.OK,
    Decision.ASK: ExitCode.ASK,
    Decision.REJECT: ExitCode.REJECTED,
}


class Reason(StrEnum):
    """Why a part is decided so, as one word for programs."""

    LABEL = "label"
    OTHER_LABEL = "other_label"
    LOW_SCORE = "low_score"
    UNCERTAIN = "uncertain"
    TIMEOUT = "timeout"
    ERROR = "error"
    ALARM = "alarm"


class Verdict(NamedTuple):
    """A decision, why, and the same in words."""

    decision: Decision
    reason: Reason
    text: str


class NotToBeTrusted(MlserveError):
    """An answer came, but it says itself that it means nothing, or it cannot be judged."""

    exit_code = ExitCode.INFERENCE


@dataclass(frozen=True, slots=True)
class Policy:
    """Which answers are accepted, and what becomes of a part otherwise.

    `min_score` is the least score of an accepted label. `guarantee` has a threshold too, above
    which the score has to be. `on_unsure` is for an accepted label without enough score. A timeout
    and an error have a decision of their own.
    """

    accept: Collection[str]
    min_score: float | None = None
    guarantee: Guarantee | None = None
    on_unsure: Decision = Decision.ASK
    on_timeout: Decision = Decision.REJECT
    on_error: Decision = Decision.REJECT

    def judge(self, answer: Prediction) -> Verdict:
        """Return the verdict on an answer. Raises NotToBeTrusted."""
        require_meaning(answer)
        shown = shortened(answer.label)
        if answer.label not in self.accept:
            wanted = either(sorted(map(shortened, self.accept)))
            text = f"the label is {shown}, not {wanted}"
            return Verdict(Decision.REJECT, Reason.OTHER_LABEL, text)
        score = score_of(answer, self.accept)
        if score is None and (self.min_score is not None or self.guarantee is not None):
            raise NotToBeTrusted(
                "the server gives a label without a score, and a score is asked for",
                hint="serve a model that was exported with scores, or leave --min-score and "
                "--calibration out",
            )
        doubt = self._doubt(answer, score)
        if doubt is not None:
            return Verdict(self.on_unsure, *doubt)
        text = f"the label is {shown}" if score is None else f"{shown} has {score:.4f}"
        return Verdict(Decision.ACCEPT, Reason.LABEL, text)

    def _doubt(self, answer: Prediction, score: float | None) -> tuple[Reason, str] | None:
        """Return why an accepted label is not enough; None if it is."""
        shown = shortened(answer.label)
        if score is not None and self.min_score is not None and score < as_single(self.min_score):
            return Reason.LOW_SCORE, f"{shown} has {score:.4f}, below {self.min_score:g}"
        if score is not None and self.guarantee is not None and not self.guarantee.lets_in(score):
            least = self.guarantee.threshold
            return Reason.LOW_SCORE, f"{shown} has {score:.4f}, not above the calibrated {least}"
        if answer.is_uncertain:
            return Reason.UNCERTAIN, f"{shown} comes from a rung of the ladder that may be wrong"
        for other in answer.scores:
            if as_single(other.score) == score and other.label not in self.accept:
                both = f"{shown} and {shortened(other.label)}"  # which is first means nothing
                return Reason.UNCERTAIN, f"{both} have the same score, {other.score:.4f}"
        return None

    def on(self, error: MlserveError) -> Verdict:
        """Return the verdict on a part without an answer.

        An answer that is not to be trusted is never accepted, nor one of another model.
        """
        if isinstance(error, DeadlineExceeded):
            return Verdict(self.on_timeout, Reason.TIMEOUT, error.message)
        decision = self.on_error
        if isinstance(error, NotToBeTrusted | OtherModel):
            decision = decision.at_least(Decision.ASK)
        return Verdict(decision, Reason.ERROR, error.message)

    def thresholds(self) -> dict[str, Any]:
        """Return what an audit line says about the rule."""
        said: dict[str, Any] = {"accept": sorted(self.accept), "min_score": self.min_score}
        if self.guarantee is not None:
            said["calibrated"] = self.guarantee.brief()
        return said


def score_of(answer: Prediction, accept: Collection[str]) -> float | None:
    """Return the score of the answer's label if that is accepted; None otherwise, or without one.

    It is the one score that thresholds are about, the same over every protocol.
    """
    if answer.label not in accept or not answer.scores:
        return None
    return as_single(answer.scores[0].score)


def as_single(score: float) -> float:
    """Return the nearest float32. A model's 0.95 comes as 0.95 over REST, else as 0.949999988."""
    return array("f", [score])[0]


def require_meaning(answer: Prediction) -> None:
    """Raise NotToBeTrusted for an answer that says itself that it means nothing."""
    require_own_weights(has_random_weights=answer.has_random_weights)
    if has_drifted(answer.served_by):
        raise NotToBeTrusted(
            "the model does not answer there as its certificate says",
            hint="see mlserve status, and mlserve certify on that machine",
        )


def require_own_weights(*, has_random_weights: bool) -> None:
    """Raise NotToBeTrusted for a model that is known to have random weights."""
    if has_random_weights:
        raise NotToBeTrusted(
            "the model has random weights, so that its answer means nothing",
            hint="export it with its own weights: mlserve export --weights FILE",
        )
