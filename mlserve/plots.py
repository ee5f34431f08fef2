"""Reports as one HTML page: tables, and plots as SVG inside it, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 960.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 16.0, 28.0, 40.0
_COLOURS = 6
_TICKS = 6
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #fff; --faint: #d5dae0; --soft: #59636e;
  --good: #1a7f37; --bad: #cf222e;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d;
  --soft: #9198a1; --good: #3fb950; --bad: #f85149;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #f778ba; --c5: #8b949e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { font-size: 1.1rem; font-weight: 600; }
.same { color: var(--good); } .different { color: var(--bad); }
.scroll { overflow-x: auto; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--faint);
  white-space: nowrap; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg .axis { stroke: var(--faint); } svg .limit { stroke: var(--bad); stroke-dasharray: 5 4; }
"""


def document(title: str, body: str) -> str:
    """Return the whole page around a body in HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        '<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


@dataclass(frozen=True, slots=True)
class PlotAxis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(longest: float) -> list[float]:
    """Return about six round numbers from 0 to `longest`."""
    rough = longest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    return [round(step * number, 9) for number in range(math.floor(longest / step) + 1)]


def line(points: Sequence[tuple[float, float]], number: int) -> str:
    """Return a line through points, in the colour of that number."""
    joined = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour(number)}" stroke-width="2"/>'


def horizontal(y: float, text: str, kind: str = "axis") -> str:
    """Return a line across the plot, with a text at its left end."""
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="{kind}"/>'
    return line + f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(text)}</text>'


def below(x: float, text: str) -> str:
    """Return a text under the plot."""
    return f'<text x="{x}" y="{HEIGHT - 12}" text-anchor="middle">{escape(text)}</text>'


def legend(names: Sequence[tuple[int, str]]) -> list[str]:
    """Return the names beside their colours, each with the number of its colour."""
    parts, x = [], LEFT
    for number, name in names:
        parts.append(f'<rect x="{x}" y="6" width="10" height="10" fill="{colour(number)}"/>')
        parts.append(f'<text x="{x + 16}" y="15">{escape(name)}</text>')
        x += 40 + 7.5 * len(name)
    return parts


def colour(number: int) -> str:
    """Return the colour of a target's number; they repeat after six."""
    return f"var(--c{number % _COLOURS})"


def svg(title: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    """Return the plot of these parts; `title` is for screen readers."""
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">\n'
        f"{body}\n</svg>"
    )
