"""Plots of the overload page as SVG, for light and for dark pages: shares, and courses of loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""The figures of one case, as `measured.Figures.to_json` gives them."""
_NAMES, _BARS, _LINE, _BAR, _TOP = 330, 400, 24, 14, 40
_PANEL, _HEIGHT, _GAP, _PER_LINE = 300, 120, 34, 2
_STEP = 0.5


@dataclass(frozen=True)
class Colours:
    """The colours of a plot: text, soft text, lines, what was answered, what is beside it."""

    ink: str
    soft: str
    line: str
    ours: str
    theirs: str


_THEMES = {
    "light": Colours("#1f2328", "#59636e", "#d1d9e0", "#0969da", "#8c959f"),
    "dark": Colours("#e6edf3", "#9198a1", "#3d444d", "#4493f8", "#6e7681"),
}


@dataclass(frozen=True)
class Bar:
    """One bar: its name, the share, the one it has to reach, and that of another server."""

    name: str
    share: float
    goal: float | None = None
    other: float | None = None


def write_plots(stem: Path, draw: Callable[[Colours], str]) -> None:
    """Write `STEM-light.svg` and `STEM-dark.svg`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for theme, colours in _THEMES.items():
        stem.with_name(f"{stem.name}-{theme}.svg").write_text(draw(colours))


def bars(title: str, shown: Sequence[Bar], colours: Colours) -> str:
    """Return shares as bars; a tick says what is to be reached, a grey bar what another gives."""
    scale = _BARS / max(1.1, *(bar.share for bar in shown), *(bar.other or 0 for bar in shown))
    bottom = _TOP + _LINE * len(shown)
    parts = [_text(0, 16, title, colours.ink, weight=600)]
    for mark in (0.0, 0.5, 1.0):
        x = _NAMES + mark * scale
        parts += [
            f'<path d="M{x:g} {_TOP - 6}V{bottom}" stroke="{colours.line}"/>',
            _text(x, _TOP - 10, f"{mark:g}", colours.soft, anchor="middle"),
        ]
    for number, bar in enumerate(shown):
        y = _TOP + number * _LINE
        parts.append(_text(_NAMES - 10, y + _BAR - 2, bar.name, colours.ink, anchor="end"))
        parts.append(_bar(y, _BAR, bar.share * scale, colours.ours))
        if bar.other is not None:
            parts.append(_bar(y + _BAR, 4, bar.other * scale, colours.theirs))
        if bar.goal is not None:
            x = _NAMES + bar.goal * scale
            parts.append(f'<path d="M{x:g} {y - 2}v{_BAR + 4}" stroke="{colours.ink}"/>')
        x = _NAMES + bar.share * scale + 6
        parts.append(_text(x, y + _BAR - 2, f"{bar.share:.2f}", colours.ink))
    return _svg(title, _NAMES + _BARS + 60, bottom + 8, parts)


def courses(title: str, rows: Sequence[tuple[str, Row]], colours: Colours) -> str:
    """Return a panel for each load: calls and answers a second over its seconds."""
    lines = -(-len(rows) // _PER_LINE)
    width, height = _PER_LINE * (_PANEL + _GAP), _TOP + lines * (_HEIGHT + 2 * _GAP)
    parts = [_text(0, 16, title, colours.ink, weight=600)]
    for number, (name, row) in enumerate(rows):
        x = number % _PER_LINE * (_PANEL + _GAP)
        y = _TOP + number // _PER_LINE * (_HEIGHT + 2 * _GAP)
        parts += _course(x, y, name, row, colours)
    return _svg(title, width, height, parts)


def _course(x: int, y: int, name: str, row: Row, colours: Colours) -> list[str]:
    course, seconds = row["course"], row["seconds"]
    capacity = sum(row["capacity"]) / 2
    most = max(1.0, *course["arrivals"], *course["answers"], capacity)
    top, bottom = y + 20, y + 20 + _HEIGHT
    level = bottom - capacity / most * _HEIGHT
    parts = [
        _text(x, y + 8, name, colours.ink),
        f'<path d="M{x} {top}V{bottom}H{x + _PANEL}" fill="none" stroke="{colours.line}"/>',
        f'<path d="M{x} {level:.1f}h{_PANEL}" stroke="{colours.soft}" stroke-dasharray="4 3"/>',
        _text(x + _PANEL, level - 3, "capacity", colours.soft, anchor="end"),
        _text(x + _PANEL, bottom + 14, f"{seconds:g} s", colours.soft, anchor="end"),
    ]
    for what, colour in (("arrivals", colours.theirs), ("answers", colours.ours)):
        points = " ".join(
            f"{x + (number + 0.5) * _STEP / seconds * _PANEL:.1f},"
            f"{bottom - value / most * _HEIGHT:.1f}"
            for number, value in enumerate(course[what])
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return parts


def _bar(y: float, height: float, length: float, colour: str) -> str:
    return f'<rect x="{_NAMES}" y="{y}" width="{length:.1f}" height="{height}" fill="{colour}"/>'


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="13">'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, colour: str, *, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
