"""Bars of the comparison as SVG, for light and for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from figures import Measure, Server

_NAMES, _PANEL, _GAP = 220, 230, 20
_LONGEST_UNIT = 3
"""Longer ones stand in the heading only."""
_ROW, _BAR, _TOP = 24, 14, 48


@dataclass(frozen=True)
class Colours:
    """The colours of a plot: text, soft text, lines, mlserve's bars, the others', the ceiling's."""

    ink: str
    soft: str
    line: str
    ours: str
    theirs: str
    ceiling: str


THEMES = {
    "light": Colours("#1f2328", "#59636e", "#d1d9e0", "#0969da", "#8c959f", "#d4a72c"),
    "dark": Colours("#e6edf3", "#9198a1", "#3d444d", "#4493f8", "#6e7681", "#bb8009"),
}


def write_plots(
    stem: Path, title: str, servers: Sequence[Server], measures: Sequence[Measure]
) -> None:
    """Write `STEM-light.svg` and `STEM-dark.svg`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for theme, colours in THEMES.items():
        path = stem.with_name(f"{stem.name}-{theme}.svg")
        path.write_text(bars(title, servers, measures, colours))


def bars(
    title: str, servers: Sequence[Server], measures: Sequence[Measure], colours: Colours
) -> str:
    """Return an SVG with a panel for each measure and a row for each server."""
    width = _NAMES + len(measures) * (_PANEL + _GAP)
    height = _TOP + _ROW * len(servers) + 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="13">'
    )
    parts = [
        head,
        _text(0, 16, title, colours.ink, weight=600),
    ]
    for number, server in enumerate(servers):
        y = _TOP + number * _ROW + _BAR - 2
        weight = 600 if server.is_ours else 400
        parts.append(_text(_NAMES - 10, y, named(server), colours.ink, anchor="end", weight=weight))
    for number, measure in enumerate(measures):
        parts += _panel(_NAMES + number * (_PANEL + _GAP), servers, measure, colours)
    return "\n".join([*parts, "</svg>", ""])


def named(server: Server) -> str:
    """Return what a row is called: with the callers where it is no server."""
    if not server.is_in_process:
        return server.name
    return f"{server.name}, {server.settings.partition(',')[0]}"


def _panel(x: int, servers: Sequence[Server], measure: Measure, colours: Colours) -> list[str]:
    found = [measure.of(server) for server in servers]
    most = max((figure.high for figure in found if figure), default=0) or 1.0
    better = " (less is better)" if measure.is_less_better else ""
    unit = measure.unit if len(measure.unit) <= _LONGEST_UNIT else ""
    parts = [
        _text(x, 36, f"{measure.name}{better}", colours.soft),
        f'<path d="M{x} {_TOP - 4}V{_TOP + _ROW * len(servers)}" stroke="{colours.line}"/>',
    ]
    scale = (_PANEL - 70) / most
    for number, (server, figure) in enumerate(zip(servers, found, strict=True)):
        if figure is None:
            continue
        y = _TOP + number * _ROW
        colour = colours.ours if server.is_ours else colours.theirs
        colour = colours.ceiling if server.is_in_process else colour
        length = figure.median * scale
        low, high = x + figure.low * scale, x + figure.high * scale
        middle = y + _BAR / 2
        parts += [
            f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="{colours.ink}"/>',
            _text(
                round(high) + 6,
                y + _BAR - 2,
                f"{number_text(figure.median)}{unit}",
                colours.ink,
            ),
        ]
    return parts


def number_text(value: float) -> str:
    """Return three digits of a number."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _text(
    x: float, y: float, text: str, colour: str, *, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
