"""The counts of what another version or server was asked, and the latest disagreements."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from mlserve.server.tensors import Array
from mlserve.wire.rollouts import Comparison, Disagreement, Mirrored, Side

REMEMBERED = 20
"""The latest disagreements that are kept."""

Arrays = Mapping[str, Array]


class Compared(NamedTuple):
    """How two answers compare; `what` says what differs, and is empty if they agree.

    `has_same_top` is None if they have no classes with scores.
    """

    what: str
    served: Side
    other: Side
    has_same_top: bool | None


@dataclass(slots=True)
class Tally:
    """The counts of one mirror, on the event loop's thread."""

    asked: str
    counts: Comparison = field(default_factory=Comparison)
    signatures: dict[str, Comparison] = field(default_factory=dict)
    last: deque[Disagreement] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    error: str = ""
    error_at: str = ""

    def begin(self, asked: str) -> None:
        """Count from nothing again, what is asked of `asked`."""
        self.asked, self.error, self.error_at = asked, "", ""
        self.counts, self.signatures = Comparison(), {}
        self.last.clear()

    def compared(self, request_id: str, signature: str, found: Compared) -> None:
        """Count two answers to one request."""
        is_same, top = not found.what, found.has_same_top
        self._add(
            signature,
            Comparison(
                agrees=is_same,
                differs=not is_same,
                tops=top is not None,
                same_top=bool(top),
            ),
        )
        if not is_same:
            sides = found.served, found.other
            self.last.append(Disagreement(request_id, _now(), signature, found.what, *sides))

    def failed(self, signature: str, why: str) -> None:
        """Count a question that was not answered."""
        self.error, self.error_at = why, _now()
        self._add(signature, Comparison(failed=1))

    def dropped(self, signature: str) -> None:
        """Count a question that was not asked."""
        self._add(signature, Comparison(dropped=1))

    def report(self, error: str = "") -> Mirrored:
        """Return what was counted; `error` is one that kept it from being asked at all."""
        told = (error, "") if error else (self.error, self.error_at)
        return Mirrored(self.asked, self.counts, dict(self.signatures), tuple(self.last), *told)

    def _add(self, signature: str, more: Comparison) -> None:
        self.counts = _sum(self.counts, more)
        self.signatures[signature] = _sum(self.signatures.get(signature, Comparison()), more)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _sum(one: Comparison, more: Comparison) -> Comparison:
    return replace(
        one,
        agrees=one.agrees + more.agrees,
        differs=one.differs + more.differs,
        failed=one.failed + more.failed,
        dropped=one.dropped + more.dropped,
        tops=one.tops + more.tops,
        same_top=one.same_top + more.same_top,
    )
