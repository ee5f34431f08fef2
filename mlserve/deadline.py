"""The one deadline of a synchronous call: absolute, monotonic, total."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from mlserve.errors import DeadlineExceeded, UsageError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock after which an answer is worth nothing.

    `timeout` is the length in seconds it was made from, kept for messages only.
    """

    expires_at: float
    timeout: float

    @classmethod
    def after(cls, timeout: float, *, since: float | None = None) -> Deadline:
        """The deadline `timeout` seconds after `since` (a `time.monotonic()` value; default now).

        Raises UsageError when `timeout` is not a positive, finite number of seconds.
        """
        if not (math.isfinite(timeout) and timeout > 0):
            raise UsageError(
                f"timeout must be a positive number of seconds, not {timeout:g}",
                hint="give for example --timeout 5",
            )
        start = time.monotonic() if since is None else since
        return cls(start + timeout, timeout)

    @property
    def began_at(self) -> float:
        """The moment on the monotonic clock that the timeout counts from."""
        return self.expires_at - self.timeout

    def remaining(self) -> float:
        """Seconds left; zero or less once the deadline has passed."""
        return self.expires_at - time.monotonic()

    @property
    def is_expired(self) -> bool:
        return self.remaining() <= 0

    def require(self, doing: str) -> float:
        """Seconds left, or DeadlineExceeded that says what was being done when it passed."""
        left = self.remaining()
        if left <= 0:
            raise self.exceeded(doing)
        return left

    def exceeded(self, doing: str) -> DeadlineExceeded:
        """The error to raise when the deadline passed while `doing` something."""
        return DeadlineExceeded(
            f"no answer within {self.timeout:g} s (the deadline passed while {doing})",
            hint="give the call more time with --timeout, or look at the server: mlserve status",
        )
