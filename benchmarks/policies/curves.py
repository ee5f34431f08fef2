"""Curves of useful work over the load as SVG, for light and for dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_WIDTH, _HEIGHT = 300, 190
"""Of one panel, in pixels; so many stand side by side:"""
_ACROSS = 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 34, 26
_HEAD = 58
_LOADS = (0.5, 1.0, 3.0, 10.0)
_OURS, _BEST = 0, 1
_THEMES = {
    "light": ("#1f2328", "#59636e", "#d1d9e0"),
    "dark": ("#e6edf3", "#9198a1", "#3d444d"),
}
"""The colours of text, soft text, and lines."""
_LINES = {
    "light": ("#0969da", "#d4a72c", "#59636e", "#bc4c00", "#1a7f37", "#8250df", "#bf3989",
              "#57ab5a", "#6e7781"),
    "dark": ("#4493f8", "#bb8009", "#9198a1", "#f0883e", "#3fb950", "#bc8cff", "#f778ba",
             "#7ee787", "#b1bac4"),
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One plot: of each policy, its useful work at each load. Both are in capacities."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def write_curves(stem: Path, panels: Sequence[Panel]) -> None:
    """Write `STEM-light.svg` and `STEM-dark.svg`."""
    for theme in _THEMES:
        stem.with_name(f"{stem.name}-{theme}.svg").write_text(_drawn(panels, theme))


def _drawn(panels: Sequence[Panel], theme: str) -> str:
    ink, soft, line = _THEMES[theme]
    width, rows = _ACROSS * _WIDTH, math.ceil(len(panels) / _ACROSS)
    height = _HEAD + rows * _HEIGHT
    names = sorted(panels[0].lines, key=_order)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Useful work over the load" font-family="system-ui, sans-serif" '
        'font-size="12">'
    )
    parts = [
        head,
        _text(0, 14, "Useful work (of the capacity) over the load (in capacities)", ink),
        *_legend(names, theme, soft),
    ]
    for number, panel in enumerate(panels):
        x, y = number % _ACROSS * _WIDTH, _HEAD + number // _ACROSS * _HEIGHT
        parts += _panel(x, y, panel, names, theme, (ink, soft, line))
    return "\n".join([*parts, "</svg>", ""])


def _order(name: str) -> tuple[int, str]:
    return {"mlserve": 0, "clairvoyant EDF": 1}.get(name, 2), name


def _legend(names: Sequence[str], theme: str, soft: str) -> list[str]:
    parts, x = [], 0.0
    for number, name in enumerate(names):
        colour = _LINES[theme][number]
        parts.append(f'<rect x="{x:g}" y="28" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, 37, name, soft))
        x += 30 + 6.8 * len(name)
    return parts


def _panel(
    x: int, y: int, panel: Panel, names: Sequence[str], theme: str, colours: tuple[str, str, str]
) -> list[str]:
    ink, soft, line = colours
    left, right = x + _LEFT, x + _WIDTH - _RIGHT
    top, bottom = y + _TOP, y + _HEIGHT - _BOTTOM

    def across(load: float) -> float:
        share = math.log(load / _LOADS[0]) / math.log(_LOADS[-1] / _LOADS[0])
        return left + share * (right - left)

    def up(useful: float) -> float:
        return bottom - min(useful, 1.05) / 1.05 * (bottom - top)

    parts = [_text(left, top - 10, panel.title, ink)]
    for useful in (0.0, 0.5, 1.0):
        parts.append(f'<path d="M{left} {up(useful):.1f}H{right}" stroke="{line}"/>')
        parts.append(_text(left - 6, up(useful) + 4, f"{useful:g}", soft, "end"))
    parts += [_text(across(load), bottom + 16, f"{load:g} x", soft, "middle") for load in _LOADS]
    for number, name in reversed(list(enumerate(names))):
        points = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in panel.lines[name])
        wide = 2.5 if number == _OURS else 1.3
        dashes = ' stroke-dasharray="5 4"' if number == _BEST else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_LINES[theme][number]}" '
            f'stroke-width="{wide}"{dashes}/>'
        )
    return parts


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
