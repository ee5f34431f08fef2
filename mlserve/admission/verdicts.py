"""Why a call was not started, and how those that were started ended."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Why the engine did not start a call."""

    QUEUE_FULL = "queue_full"
    """The queue was full."""
    DEADLINE = "deadline"
    """By the estimates it could not end in time; decided on arrival."""
    TOO_SLOW = "too_slow"
    """By the estimates even an idle server could not end it in time; decided on arrival."""
    DISPLACED = "displaced"
    """It was admitted, but work that took longer than estimated left it too little time."""
    EXPIRED = "expired"
    """Its deadline passed before it was started."""
    DRAINING = "draining"
    """The server is about to stop."""
    GONE = "gone"
    """Its client left before it was started."""


class Outcome(StrEnum):
    """How a call that the engine started ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    """Its deadline passed while it ran."""
    GONE = "gone"
    """Its client left while it ran."""
