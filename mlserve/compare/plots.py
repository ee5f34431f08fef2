"""The two plots of a report, drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mlserve.compare.result import Comparison, Row, TargetResult
from mlserve.compare.summary import short

_WIDTH, _HEIGHT = 960.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 28.0, 40.0
_COLOURS = 6
_TICKS = 6
_CAPTION = "images in the order given; equal scores lie on the lowest line; dashed: the tolerance"


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values between `low` and `high`, mapped to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def latency_plot(found: Comparison) -> str:
    """For each target the share of answers that came within a time, in milliseconds."""
    timed = [result for result in found.targets if result.milliseconds]
    if not timed:
        return "<p>No target answered.</p>"
    longest = max(max(result.milliseconds) for result in timed)
    across = _Axis(0.0, longest * 1.02, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(0.0, 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [_horizontal(up.place(share), f"{share:.0%}") for share in (0.0, 0.5, 0.95)]
    parts += [_below(across.place(value), f"{value:g} ms") for value in _ticks(longest)]
    parts += [_line(across, up, result, _colour(found, result)) for result in timed]
    return _svg("Share of answers within a time", [*parts, *_legend(found, timed)])


def difference_plot(found: Comparison) -> str:
    """For each image the largest score difference from the reference, on a logarithmic scale."""
    compared = [(result, _apart(result)) for result in found.targets]
    compared = [(result, values) for result, values in compared if values]
    if not compared:
        return "<p>No scores were compared.</p>"
    shown = [value for _, values in compared for _, _, value in values]
    up = _decades([*shown, found.tolerance])
    across = _Axis(-0.5, len(found.images) - 0.5, _LEFT, _WIDTH - _RIGHT)
    powers = range(math.ceil(up.low), math.floor(up.high) + 1)
    parts = [_horizontal(up.place(power), f"1e{power}") for power in powers]
    if found.tolerance > 0:
        parts.append(_horizontal(up.place(math.log10(found.tolerance)), "", kind="limit"))
    parts.append(_below(_WIDTH / 2, _CAPTION))
    parts += [
        _dot(across.place(number), up.place(_logarithm(value, up)), image, value, result, found)
        for result, values in compared
        for number, image, value in values
    ]
    legend = _legend(found, [result for result, _ in compared])
    return _svg("Largest score difference of each image", [*parts, *legend])


def _ticks(longest: float) -> list[float]:
    """Round numbers from 0 to `longest`, about six of them."""
    rough = longest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    return [round(step * number, 9) for number in range(math.floor(longest / step) + 1)]


def _apart(result: TargetResult) -> list[tuple[int, str, float]]:
    """The number, name and score difference of each image that has one."""
    values = [(i, row.image, _largest(row)) for i, row in enumerate(result.rows)]
    return [(i, image, value) for i, image, value in values if value is not None]


def _largest(row: Row) -> float | None:
    found = [row.score_difference]
    if row.stages and "scores" in row.stages.differences:
        found.append(row.stages.differences["scores"].largest)
    known = [value for value in found if value is not None]
    return max(known) if known else None


def _decades(values: Sequence[float]) -> _Axis:
    """The powers of ten around the values; what is zero is drawn on the lowest one."""
    powers = [math.log10(value) for value in values if 0 < value < math.inf] or [-8.0]
    low, high = math.floor(min(powers)) - 1, math.ceil(max(powers)) + 0.2
    return _Axis(low, high, _HEIGHT - _BOTTOM, _TOP)


def _logarithm(value: float, axis: _Axis) -> float:
    if value <= 0:
        return axis.low
    return min(axis.high, math.log10(value)) if math.isfinite(value) else axis.high


def _line(across: _Axis, up: _Axis, result: TargetResult, colour: str) -> str:
    values = sorted(result.milliseconds)
    points = [(across.place(values[0]), up.place(0))]
    for number, value in enumerate(values):
        points.append((across.place(value), up.place((number + 1) / len(values))))
    joined = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _dot(
    x: float, y: float, image: str, value: float, result: TargetResult, found: Comparison
) -> str:
    title = escape(f"{image}: {short(value)} ({result.target.name})")
    colour = _colour(found, result)
    return f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"><title>{title}</title></circle>'


def _horizontal(y: float, text: str, kind: str = "axis") -> str:
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" class="{kind}"/>'
    return line + f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(text)}</text>'


def _below(x: float, text: str) -> str:
    return f'<text x="{x}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(text)}</text>'


def _legend(found: Comparison, results: Sequence[TargetResult]) -> list[str]:
    parts, x = [], _LEFT
    for result in results:
        colour, name = _colour(found, result), result.target.name
        parts.append(f'<rect x="{x}" y="6" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="15">{escape(name)}</text>')
        x += 40 + 7.5 * len(name)
    return parts


def _colour(found: Comparison, result: TargetResult) -> str:
    number = [id(each) for each in found.targets].index(id(result))
    return f"var(--c{number % _COLOURS})"


def _svg(title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(title)}">\n'
        f"{body}\n</svg>"
    )
