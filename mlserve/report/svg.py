"""What plots are drawn with: frames, axes, and texts that lie on nothing else.

A plot is drawn for a wide page and for a narrow one, as text that shrinks with its plot cannot be
read; `style.css` shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from mlserve.report.page import Markup

_GLYPH = 7.7
"""The widest digits of the usual fonts at 12 px (DejaVu Sans): labels are kept so far apart."""
_APART = 6.0
_MOST_TICKS = 8


def identity(value: float) -> float:
    """Return the value: the scale of a linear axis."""
    return value


def logarithm(value: float) -> float:
    """Return the power of ten: the scale of a logarithmic axis."""
    return math.log10(value) if value > 0 else -math.inf


def tail(share: float) -> float:
    """Return how many times 1 in 10 are left above a share: the scale that shows the slowest."""
    return -math.log10(1 - share) if share < 1 else math.inf


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    scale: Callable[[float], float] = identity

    def place(self, value: float) -> float:
        """Return the pixel of a value; what lies outside is at the edge."""
        low, high = self.scale(self.low), self.scale(self.high)
        share = (self.scale(value) - low) / (high - low)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)

    @property
    def is_logarithmic(self) -> bool:
        return self.scale is logarithm


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a plot and of the space around it, in pixels; `kind` is its class of the page."""

    kind: str
    width: float
    height: float = 300.0
    left: float = 70.0
    right: float = 16.0
    top: float = 18.0
    bottom: float = 30.0

    def across(self, low: float, high: float, scale: Callable[[float], float] = identity) -> Axis:
        """Return the axis of these values from the left to the right."""
        return Axis(low, high, self.left, self.width - self.right, scale)

    def up(self, low: float, high: float, scale: Callable[[float], float] = identity) -> Axis:
        """Return the axis of these values from the bottom to the top."""
        return Axis(low, high, self.height - self.bottom, self.top, scale)

    def horizontal(self, y: float, text: str, kind: str = "grid") -> str:
        """Return a line across the plot, with a text at its left end."""
        return _line(self.left, y, self.width - self.right, y, kind) + label(
            self.left - 8, y + 4, text, "end"
        )

    def ticks_below(self, axis: Axis, write: Callable[[float], str]) -> Iterator[str]:
        """Yield lines at round values of an axis, with their texts under the plot."""
        y = self.height - self.bottom
        for value in _fitting(axis, write):
            x = axis.place(value)
            half = text_width(write(value)) / 2
            yield _line(x, self.top, x, y, "grid")
            yield label(min(x, self.width - half), y + 18, write(value), "middle")

    def ticks_beside(self, axis: Axis, write: Callable[[float], str]) -> Iterator[str]:
        """Yield lines at round values of an axis, with their texts at the left."""
        for value in ticks(axis.low, axis.high):
            yield self.horizontal(axis.place(value), write(value))


_WIDE = Frame("wide", 760.0)
_NARROW = Frame("narrow", 388.0)


def plot(title: str, draw: Callable[[Frame], Iterable[str]]) -> Markup:
    """Return what is drawn into a wide and into a narrow frame; `title` is for screen readers."""
    return Markup("\n".join(_svg(title, frame, draw(frame)) for frame in (_WIDE, _NARROW)))


def _svg(title: str, frame: Frame, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg class="{frame.kind}" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
        f'aria-label="{escape(title)}">\n{body}\n</svg>'
    )


def figure(drawn: str, caption: str, legend: str = "") -> Markup:
    """Return a plot with the names of its colours above it and a sentence below it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(f"<figure>\n{legend}\n{drawn}\n{below}</figure>")


def label(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    """Return a text whose start, middle or end is at x."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def curve(points: Sequence[tuple[float, float]], colour: str) -> str:
    """Return a line through points; those that nobody could tell from the one before are left out.

    So a hundred thousand answers make no larger page than a thousand.
    """
    kept = list(points[:1])
    for x, y in points[1:-1]:
        if abs(x - kept[-1][0]) + abs(y - kept[-1][1]) >= 1:
            kept.append((x, y))
    joined = " ".join(f"{x:g},{y:g}" for x, y in (*kept, *points[1:][-1:]))
    return f'<polyline class="curve {colour}" points="{joined}"/>'


def dot(x: float, y: float, title: str, colour: str, radius: float = 4.0) -> str:
    """Return a dot that says its title when it is pointed at."""
    return (
        f'<circle class="dot {colour}" cx="{x:g}" cy="{y:g}" r="{radius:g}">'
        f"<title>{escape(title)}</title></circle>"
    )


@dataclass(slots=True)
class TextRow:
    """Texts beside the `dots` that lie on one line of a plot, between two pixels.

    A curve rises from the left to the right, so a text lies off it to the right and below a dot, or
    to the left and above. One that would touch another text or dot is left out.
    """

    low: float
    high: float
    dots: Sequence[float] = ()
    _right: list[tuple[float, float]] = field(default_factory=list)
    _left: list[tuple[float, float]] = field(default_factory=list)

    def beside(self, x: float, y: float, text: str, colour: str) -> str:
        """Return a text beside a dot: to its left, of the last dot to its right; else nothing."""
        wide, kind = text_width(text), f"value {colour}"
        right = self._right, x + 8, x + 8 + wide, label(x + 8, y + 14, text, "start", kind)
        left = self._left, x - 8 - wide, x - 8, label(x - 8, y - 5, text, "end", kind)
        is_last = x >= max(self.dots, default=x)
        for taken, start, end, shown in (right, left) if is_last else (left, right):
            if self._is_free(taken, start, end):
                taken.append((start - _APART, end + _APART))
                return shown
        return ""

    def _is_free(self, taken: list[tuple[float, float]], start: float, end: float) -> bool:
        others = [*taken, *((x - _APART, x + _APART) for x in self.dots)]
        is_inside = self.low <= start and end <= self.high
        return is_inside and all(end <= low or high <= start for low, high in others)


def text_width(text: str) -> float:
    """Return how wide a text may be, in pixels."""
    return _GLYPH * len(text)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return about `most` round numbers between two, both included where they are round."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)]


def round_powers(low: float, high: float, digits: Sequence[int]) -> list[float]:
    """Return the powers of ten between two numbers, times each of the digits."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return [value for value in found if low <= value <= high]


def _fitting(axis: Axis, write: Callable[[float], str]) -> list[float]:
    """Return round values of an axis whose texts do not touch each other, as many as there can be.

    Of a logarithmic axis they are powers of ten, also doubled and times 5.
    """
    choices = [ticks(axis.low, axis.high, most) for most in (6, 4, 2)]
    if axis.is_logarithmic:
        choices = [
            round_powers(axis.low, axis.high, digits) for digits in ((1, 2, 5), (1, 3), (1,))
        ]
        choices = [found for found in choices if 1 < len(found) <= _MOST_TICKS] or choices
    for values in choices:
        if _are_apart(axis, values, write):
            return values
    return _thinned(axis, choices[-1], write)


def _are_apart(axis: Axis, values: Sequence[float], write: Callable[[float], str]) -> bool:
    return len(_thinned(axis, values, write)) == len(values)


def _thinned(axis: Axis, values: Sequence[float], write: Callable[[float], str]) -> list[float]:
    """Return the values without those whose texts would touch the one before."""
    kept: list[float] = []
    free_from = -math.inf
    for value in values:
        half = text_width(write(value)) / 2
        if axis.place(value) - half >= free_from:
            kept.append(value)
            free_from = axis.place(value) + half + _APART
    return kept


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'
