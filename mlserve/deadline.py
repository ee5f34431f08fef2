"""Deadlines: one per synchronous call, absolute, monotonic, and covering the whole call."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mlserve.errors import DeadlineExceeded, UsageError

_SHOWN = 40
"""Digits of an integer that an error message repeats."""
MOST_SECONDS = 1e9
"""The longest time accepted anywhere, 31 years.

Longer waits overflow: a thread at 292 years, gRPC and the operating system earlier.
"""
_SHORT = 0.0995
"""Seconds from which a time is written in seconds: in milliseconds it would be `1e+02`."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock after which an answer is worthless.

    `timeout` is the length in seconds it was made from, kept for messages only. `is_asked` says
    that the caller asked for it; otherwise it is the server's default.
    """

    expires_at: float
    timeout: float
    is_asked: bool = True

    @classmethod
    def after(cls, timeout: float, *, since: float | None = None) -> Deadline:
        """Return the deadline `timeout` seconds after `since` (a `time.monotonic()`; default now).

        Raises UsageError when `timeout` is not a positive number of seconds up to `MOST_SECONDS`.
        """
        if not (is_number(timeout) and math.isfinite(timeout) and timeout > 0):
            shown = f"{timeout:g}" if is_number(timeout) else repr(timeout)
            raise UsageError(
                f"timeout must be a positive number of seconds, not {shown}",
                hint="give for example {timeout 5}",
            )
        check_seconds("timeout", timeout)
        start = time.monotonic() if since is None else since
        return cls(start + float(timeout), float(timeout))

    @classmethod
    def at_most(
        cls, timeout: float | None, default: float, *, since: float | None = None
    ) -> Deadline:
        """Return the deadline that a remote caller asks for, capped at `MOST_SECONDS`.

        `timeout` is a number of seconds of any size; None is a caller that asks for none, and then
        it is `default`. It counts from `since` (a `time.monotonic()`; default now).
        """
        seconds = min(default if timeout is None else timeout, MOST_SECONDS)
        start = time.monotonic() if since is None else since
        return cls(start + seconds, seconds, is_asked=timeout is not None)

    @property
    def began_at(self) -> float:
        """Return the monotonic time that the timeout counts from."""
        return self.expires_at - self.timeout

    def remaining(self) -> float:
        """Return the seconds left; zero or less once the deadline has passed."""
        return self.expires_at - time.monotonic()

    @property
    def is_expired(self) -> bool:
        return self.remaining() <= 0

    def require(self, doing: str) -> float:
        """Return the seconds left. Raises DeadlineExceeded, which says what was going on."""
        left = self.remaining()
        if left <= 0:
            raise self.exceeded(doing)
        return left

    def exceeded(self, doing: str) -> DeadlineExceeded:
        """Return the error to raise when the deadline passed while `doing` something."""
        return DeadlineExceeded(
            f"no answer within {in_words(self.timeout)} (the deadline passed while {doing})",
            hint="give the call more time with {timeout}, or look at the server: mlserve status",
        )


def check_seconds(what: str, seconds: float) -> float:
    """Return `seconds` if it is a number from 0 to `MOST_SECONDS`. Raises UsageError.

    `what` is the name of the option it was given with.
    """
    if not 0 <= seconds <= MOST_SECONDS:
        given = f"{seconds:g}" if isinstance(seconds, float) else str(seconds)[:_SHOWN]
        raise UsageError(
            f"{what} must be a number of seconds from 0 to {MOST_SECONDS:g}, not {given}",
            hint="give for example 60",
        )
    return seconds


def in_words(seconds: float) -> str:
    """Format a length of time for a message, such as `2.5 s`; below 0.1 s in milliseconds."""
    return f"{round(seconds, 2):g} s" if seconds >= _SHORT else f"{seconds * 1000:.2g} ms"


def is_number(value: Any) -> bool:
    """Return whether this is a real number: neither a string nor a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Return whether this is a whole number of at least 1, and not True."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
