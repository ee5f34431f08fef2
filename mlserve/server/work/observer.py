"""What the engine tells whoever counts: refusals, late work, batches, and each call's end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mlserve.server.sight.exchange import StageTimes


class Refusal(StrEnum):
    """Why a call was not started."""

    QUEUE_FULL = "queue_full"
    """No place to wait in."""
    DEADLINE = "deadline"
    """By the estimates it could not end in time; told on arrival."""
    TOO_SLOW = "too_slow"
    """By the estimates not even an idle server would end it in time; told on arrival."""
    DISPLACED = "displaced"
    """It was admitted, and work that took longer than estimated left it too little time."""
    EXPIRED = "expired"
    """Its deadline passed before it was started."""
    DRAINING = "draining"
    """The server is about to stop."""
    GONE = "gone"
    """Its client left before it was started."""


class Outcome(StrEnum):
    """How a call that was started ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    """Its deadline passed while it was worked on."""
    GONE = "gone"
    """Its client left while it was worked on."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A call whose work has ended. `signature` is empty when decoding did not get that far."""

    model: str
    version: int
    signature: str
    outcome: Outcome
    times: StageTimes


@dataclass(frozen=True, slots=True)
class Execution:
    """A run of the model that gave outputs, for one call or for several as a batch.

    `rows` are those of all its calls together; the times are seconds, of decoding and encoding all
    calls, and of the run.
    """

    model: str
    version: int
    rows: int
    decode: float
    run: float
    encode: float


class Observer(Protocol):
    """Told on the event loop's thread; must return at once and not raise."""

    def refused(self, why: Refusal) -> None:
        """A call was not started."""

    def ended(self, call: Ended) -> None:
        """The work of a call has ended, its slot is free again."""

    def batch(self, size: int) -> None:
        """That many calls were run as one; told where batching is on."""

    def executed(self, run: Execution) -> None:
        """The model was run and gave outputs."""


class _Unobserved:
    def refused(self, why: Refusal) -> None:
        return

    def ended(self, call: Ended) -> None:
        return

    def batch(self, size: int) -> None:
        return

    def executed(self, run: Execution) -> None:
        return


UNOBSERVED: Observer = _Unobserved()
"""The observer that keeps nothing."""
