"""How often the answers were right: counts of expected against answered labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class ClassScore(NamedTuple):
    """One expected class: its images, how many were answered right, and two shares.

    `recall` is the share of its images that got its label; `precision` is the share of the answers
    with its label that were right. None where there is nothing to divide by.
    """

    label: str
    images: int
    right: int
    recall: float | None
    precision: float | None


@dataclass(slots=True)
class Accuracy:
    """Counts answers as they come.

    `best` is the least number of classes that an answer had.
    """

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    best: int | None = None
    _places: Counter[int] = field(default_factory=Counter)
    """How many answers had their expected label at each place, from 0 for the best class."""

    def add(self, expected: str, answered: Sequence[str]) -> None:
        """Count an answer: its label, then the labels of the next best classes if it has them."""
        self.pairs[expected, answered[0]] += 1
        if expected in answered:
            self._places[answered.index(expected)] += 1
        self.best = len(answered) if self.best is None else min(self.best, len(answered))

    @property
    def images(self) -> int:
        return self.pairs.total()

    @property
    def in_best(self) -> int:
        """How many answers had their expected label among the `best` classes, the same for all."""
        return sum(count for place, count in self._places.items() if place < (self.best or 0))

    @property
    def right(self) -> int:
        return sum(
            count for (expected, answered), count in self.pairs.items() if expected == answered
        )

    @property
    def share(self) -> float | None:
        """The share of the answers that were right; None without answers."""
        return _share(self.right, self.images)

    @property
    def share_in_best(self) -> float | None:
        """The share of the answers with the expected label among the best; None without answers."""
        return _share(self.in_best, self.images)

    def labels(self) -> list[str]:
        """Return every label that was expected or answered, sorted, the expected ones first."""
        expected = {pair[0] for pair in self.pairs}
        others = {pair[1] for pair in self.pairs} - expected
        return [*sorted(expected), *sorted(others)]

    def classes(self) -> list[ClassScore]:
        """Return the score of each expected class, by label."""
        images, answers = Counter[str](), Counter[str]()
        for (expected, answered), count in self.pairs.items():
            images[expected] += count
            answers[answered] += count
        return [
            ClassScore(
                label,
                images[label],
                self.pairs[label, label],
                _share(self.pairs[label, label], images[label]),
                _share(self.pairs[label, label], answers[label]),
            )
            for label in sorted(images)
        ]

    def mistakes(self) -> list[tuple[str, str, int]]:
        """Return (expected, answered, count) of the wrong answers, the most frequent first."""
        wrong = [(*pair, count) for pair, count in self.pairs.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda item: (-item[2], item[:2]))

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "right": self.right,
            "accuracy": self.share,
            "best": self.best,
            "accuracy_in_best": self.share_in_best,
            "classes": [item._asdict() for item in self.classes()],
            "confusion": [
                {"expected": expected, "answered": answered, "images": count}
                for (expected, answered), count in sorted(self.pairs.items())
            ],
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
