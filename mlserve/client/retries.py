"""How often a server is asked, and how long the client waits before it asks again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlserve.deadline import is_number
from mlserve.errors import Transient, UsageError

if TYPE_CHECKING:
    from random import Random

DEFAULT_MAX_ATTEMPTS = 5
_BASE = 0.05
_CAP = 1.0
_MOST_DOUBLINGS = 64
"""No base is doubled more often: 2.0**1024 is no float."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How a call that met a `Transient` error is repeated, always inside its one deadline.

    The n-th wait is a random part of `min(cap, base * 2**n)` seconds, after what the server asked
    for, if it did. `max_attempts` 1 asks once. `random` is the source of chance, for tests that
    need the same waits each time. Raises UsageError for no attempt at all, and for a `base` or
    `cap` that is not a number of seconds.
    """

    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    base: float = _BASE
    cap: float = _CAP
    random: Random | None = None

    def __post_init__(self) -> None:
        for name in ("base", "cap"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and value >= 0):
                raise UsageError(
                    f"{name} must be a number of seconds, at least 0, not {value!r}",
                    hint=f"the default is {self.__dataclass_fields__[name].default}",
                )
        if not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise UsageError(
                f"max_attempts must be at least 1, not {self.max_attempts!r}",
                hint="1 asks once and never again",
            )

    def pause(self, failed: int, error: Transient) -> float:
        """Seconds to wait after the `failed`-th attempt in vain; infinity: do not ask again."""
        if failed >= self.max_attempts:
            return float("inf")
        longest = min(self.cap, self.base * 2.0 ** min(failed - 1, _MOST_DOUBLINGS))
        return (error.retry_after or 0.0) + self._chance().uniform(0, longest)

    def _chance(self) -> Random:
        if self.random is not None:
            return self.random
        from random import SystemRandom  # most calls need no chance

        return SystemRandom()


ONCE = Retries(max_attempts=1)
"""For callers who measure, or who ask again themselves."""
