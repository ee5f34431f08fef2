"""The plots of reports: how long answers took, how far each one is away, figures over a load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from mlserve.percentiles import Percentiles, in_digits
from mlserve.report.page import Markup, colour, legend, paragraph
from mlserve.report.svg import (
    Axis,
    Frame,
    TextRow,
    curve,
    dot,
    figure,
    label,
    logarithm,
    plot,
    tail,
)

HOW_TO_READ = (
    "Across: the time of an answer. Up: the share of the answers that took no longer, on a scale "
    "that widens towards the slowest, so that p95 and p99 can be told apart."
)
"""How the plot of times is read."""
FEWEST = 20
"""Answers from which on their times are a line with percentiles; fewer are a dot each."""
MARKED = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""The percentiles that are marked, and the share of the answers that each does not exceed."""
_ROWS = {"fastest": 0.0, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "slowest": 1.0}
_MANY = 1000
_ROWS_OF_MANY = {**_ROWS, "p99.9": 0.999}
_ROWS_OF_FEW = {"fastest": 0.0, "p50": 0.5, "slowest": 1.0}
_TOP, _TOP_OF_MANY = 0.995, 0.9995
"""The share at the top of the plot, where the slowest answer is: on this scale 1 is nowhere."""
_SPREAD = 10.0
"""How many times the shortest the longest time may be on a linear axis."""
_SECOND = 1000.0
_MOST_POWERS = 11
_MOST_PLACES = 300
"""The most distances that are all drawn: the narrow plot is as many pixels wide."""
_THINNED = "Where several would lie on each other, only the one that is furthest away is drawn."


@dataclass(frozen=True, slots=True)
class Times:
    """The times of one target's answers, in milliseconds; `number` gives its colour.

    `points` are times with the share of the answers that they do not exceed, in their order;
    `marks` the percentiles of MARKED.
    """

    name: str
    number: int
    count: int
    points: Sequence[tuple[float, float]]
    marks: Mapping[str, float]

    @classmethod
    def from_values(cls, name: str, number: int, milliseconds: Sequence[float]) -> Self:
        """Return those of single times, of which there must be one; percentiles as elsewhere."""
        ordered, last = sorted(milliseconds), len(milliseconds) - 1
        points = [(value, at / last if last else 0.5) for at, value in enumerate(ordered)]
        found = Percentiles.from_values(ordered)
        marks = {} if found is None else {mark: getattr(found, mark) for mark in MARKED}
        return cls(name, number, len(ordered), points, marks)

    @property
    def is_few(self) -> bool:
        """Whether there are too few for a line and its percentiles."""
        return self.count < FEWEST

    @property
    def in_order(self) -> list[tuple[float, float]]:
        """The points and the marks, so that a line goes through both."""
        marks = [(value, MARKED[name]) for name, value in self.marks.items()]
        return sorted([*self.points, *marks], key=lambda point: (point[1], point[0]))


def cumulative(times: Sequence[Times]) -> Markup:
    """Plot for each target the share of its answers within a time, with its percentiles marked."""
    if not times:
        return paragraph("There was no answer, so there are no times.", "soft")
    drawn = plot("Share of the answers within a time", partial(_draw_times, times))
    return figure(drawn, _about(times), legend((each.number, each.name) for each in times))


def _about(times: Sequence[Times]) -> str:
    """Return what is to be known of this plot besides HOW_TO_READ."""
    said = ""
    if any(each.is_few for each in times):
        said += f" Of fewer than {FEWEST} answers each one is a dot, and no percentile is marked."
    if any(not each.is_few and each.count < 100 for each in times):  # noqa: PLR2004  1 of p99
        said += " Of fewer than 100 answers, p99 is next to the slowest one."
    if time_axis(times, Frame("", 760)).is_logarithmic:
        said += " Times are on a logarithmic scale."
    return said.strip()


def _draw_times(times: Sequence[Times], frame: Frame) -> Iterator[str]:
    up, rows = _shares(times, frame)
    for name, share in rows.items():
        yield frame.horizontal(up.place(share), name)
    across = time_axis(times, frame)
    yield from frame.ticks_below(across, time_text)
    for each in times:
        places = [(across.place(value), up.place(share)) for value, share in each.in_order]
        if not each.is_few:
            yield curve(places, colour(each.number))
            continue
        for value, share in each.points:
            title = f"{each.name}: {time_text(value)}"
            yield dot(across.place(value), up.place(share), title, colour(each.number))
    for name, share in MARKED.items():
        yield from _marks(name, up.place(share), times, across, frame)


def _shares(times: Sequence[Times], frame: Frame) -> tuple[Axis, Mapping[str, float]]:
    """Return the axis of shares, and those that have a line: p99.9 only of many answers."""
    if all(each.is_few for each in times):
        return frame.up(0.0, 1.0), _ROWS_OF_FEW
    if max(each.count for each in times) >= _MANY:
        return frame.up(0.0, _TOP_OF_MANY, tail), _ROWS_OF_MANY
    return frame.up(0.0, _TOP, tail), _ROWS


def _marks(
    name: str, y: float, times: Sequence[Times], across: Axis, frame: Frame
) -> Iterator[str]:
    """Yield a dot for each target at a percentile, with its time beside it where there is room."""
    marked = [(across.place(each.marks[name]), each) for each in times if not each.is_few]
    row = TextRow(frame.left + 2, frame.width - 2, [x for x, _ in marked])
    for x, each in sorted(marked, key=lambda pair: pair[0]):
        text = time_text(each.marks[name])
        yield dot(x, y, f"{each.name}: {name} {text}", colour(each.number), 4.5)
        yield row.beside(x, y, text, colour(each.number))


def time_axis(times: Sequence[Times], frame: Frame) -> Axis:
    """Return the axis of all times: logarithmic where the longest is ten times the shortest."""
    values = [value for each in times for value, _ in each.in_order]
    shortest, longest = min(values), max(values)
    if shortest > 0 and shortest * _SPREAD < longest:
        return frame.across(shortest * 0.9, longest * 1.1, logarithm)
    margin = 0.04 * (longest - shortest) or 0.1 * longest or 1.0
    low = 0.0 if shortest < longest / 2 else max(0.0, shortest - margin)
    return frame.across(low, longest + margin)


def time_text(milliseconds: float) -> str:
    """Return a time in three digits: `8.13 ms`, `1.2 s`."""
    if milliseconds >= _SECOND:
        return f"{in_digits(milliseconds / _SECOND, 3)} s"
    return f"{in_digits(milliseconds, 3)} ms"


@dataclass(frozen=True, slots=True)
class Distances:
    """How far the answers of a target are away: each with its place in the order, and its name."""

    name: str
    number: int
    values: Sequence[tuple[int, str, float]]


def distances(
    title: str, found: Sequence[Distances], count: int, limit: float, what: str
) -> Markup:
    """Plot each distance on a scale of powers of ten, and the `limit`, which `what` names.

    `count` is the number of places. Zero is drawn on the lowest line, infinite on the highest. Of
    more than can be told apart, only the furthest ones are drawn.
    """
    values = [value for each in found for _, _, value in each.values]
    if not any(values):
        return paragraph("Every difference is 0." if values else "Nothing was compared.", "soft")
    drawn = plot(title, partial(_draw_distances, found, count, limit, what))
    return figure(
        drawn,
        _THINNED if count > _MOST_PLACES else "",
        legend((each.number, each.name) for each in found),
    )


def _draw_distances(
    found: Sequence[Distances], count: int, limit: float, what: str, frame: Frame
) -> Iterator[str]:
    values = [value for each in found for _, _, value in each.values]
    up, powers = _decades([*values, limit], frame)
    has_zero, has_infinite = 0.0 in values, not all(map(math.isfinite, values))
    for power in powers:
        yield frame.horizontal(up.place(power), f"1e{power}")
    if has_zero:
        yield frame.horizontal(up.place(up.low), "0")
    if has_infinite:
        yield frame.horizontal(up.place(up.high), "∞")
    across = frame.across(-0.5, count - 0.5)
    if limit > 0:
        y = up.place(math.log10(limit))
        yield frame.horizontal(y, "", "limit")
    for each in found:
        values_shown = each.values if count <= _MOST_PLACES else _furthest(each.values, across)
        for place, name, value in values_shown:
            title = f"{each.name}, {name}: {in_digits(value, 2)}"
            y = up.place(logarithm(value) if math.isfinite(value) else math.inf)
            yield dot(across.place(place), y, title, colour(each.number), 3.5)
    if limit > 0:
        y = up.place(math.log10(limit)) - 5
        yield label(frame.width - frame.right, y, what, "end", "of-limit")


def _furthest(
    values: Sequence[tuple[int, str, float]], across: Axis
) -> Iterable[tuple[int, str, float]]:
    """Return the one that is furthest away of those that lie on the same pixel across."""
    kept: dict[int, tuple[int, str, float]] = {}
    for each in values:
        x = round(across.place(each[0]))
        if x not in kept or each[2] > kept[x][2]:
            kept[x] = each
    return kept.values()


def _decades(values: Sequence[float], frame: Frame) -> tuple[Axis, range]:
    """Return the axis of the powers of ten around these values, and those that have a line."""
    powers = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    high = max(high, low + 1)
    step = 1 + (high - low) // _MOST_POWERS
    return frame.up(low - 0.8 * step, high + 0.8 * step), range(low, high + 1, step)


@dataclass(frozen=True, slots=True)
class Series:
    """A figure of one target over something, in the order of that, each with its title."""

    name: str
    number: int
    points: Sequence[tuple[float, float, str]]


def series(title: str, found: Sequence[Series], write: Callable[[float], str]) -> Markup:
    """Plot a figure of each target over a load; `write` is how the figure is written."""
    if not found:
        return paragraph("There was no answer, so there is nothing to draw.", "soft")
    drawn = plot(title, partial(_draw_series, found, write))
    return figure(drawn, "", legend((each.number, each.name) for each in found))


def _draw_series(
    found: Sequence[Series], write: Callable[[float], str], frame: Frame
) -> Iterator[str]:
    most = max(x for each in found for x, _, _ in each.points)
    highest = max(y for each in found for _, y, _ in each.points) or 1.0
    across, up = frame.across(0.0, most * 1.04), frame.up(0.0, highest * 1.05)
    yield from frame.ticks_beside(up, write)
    yield from frame.ticks_below(across, "{:g}".format)
    for each in found:
        places = [(across.place(x), up.place(y)) for x, y, _ in each.points]
        yield curve(places, colour(each.number))
        for (x, y), (_, _, said) in zip(places, each.points, strict=True):
            yield dot(x, y, said, colour(each.number))
