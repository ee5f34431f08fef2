"""Write the simulated part of docs/overload.md from the figures of `run.py`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cells import BURSTS, CURVES, LOADS, Cell
from curves import Panel
from outcomes import CHOSEN, CLAIRVOYANT, OURS, Figure

ROOT = Path(__file__).parents[2]
PAGE, IMAGES = ROOT / "docs" / "overload.md", ROOT / "docs" / "images"
BEGIN = "<!-- written by benchmarks/policies/run.py: what stands here is lost the next time -->"
END = "<!-- end of what benchmarks/policies/run.py writes -->"
CLOSE = 0.005
"""Shares that differ by less are taken for equal: a call more or less in a cell."""
BELOW = 0.98
"""The least share of clairvoyant EDF that is aimed at where deadlines are known."""


@dataclass(frozen=True)
class Row:
    """What came of one cell, by policy."""

    cell: Cell
    figures: dict[str, Figure]

    def share(self, policy: str) -> float:
        """Return the useful work of a policy as a share of clairvoyant EDF's."""
        return self.figures[policy].useful / self.figures[CLAIRVOYANT].useful

    @property
    def rival(self) -> str:
        """The best of the other policies."""
        others = [name for name in self.figures if name not in {OURS, CLAIRVOYANT}]
        return max(others, key=self.share)

    @property
    def is_lost(self) -> bool:
        """Whether another policy is better, by more than a call or two."""
        return self.share(self.rival) > self.share(OURS) + CLOSE

    @property
    def is_below(self) -> bool:
        """Whether deadlines are known, and more than 2 % are missing."""
        return self.cell.callers.is_asked and self.share(OURS) < BELOW


def write_page(rows: Sequence[Row]) -> None:
    """Write the part into the page. Raises ValueError without its two markers."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} needs one line {BEGIN} and, after it, one line {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{section(rows)}\n\n{END}{after}")


def section(rows: Sequence[Row]) -> str:
    """Return the whole part in Markdown."""
    runs = sum(len(row.figures) for row in rows)
    lost, below = [row for row in rows if row.is_lost], [row for row in rows if row.is_below]
    first = (
        f"{len(rows)} cells, {runs:,} runs. Each figure is the work whose answers came in time, as "
        "a share of clairvoyant EDF's on the same calls."
    )
    beside = (
        "Beside each figure stands that of the best of the other policies; **bold** where it is "
        f"better by more than {CLOSE:g}."
    )
    parts = [
        first,
        _picture(),
        "### Over all cells",
        _policies(rows),
        "### mlserve, cell by cell",
        beside,
        *(_curve(rows, callers.name) for callers in CURVES),
        "### Steps, a fast model, wrong estimates",
        _others(rows),
        "### What is lost",
        _sums(rows, lost, below),
    ]
    return "\n\n".join(parts)


def curves_of(rows: Iterable[Row]) -> list[Panel]:
    """Return the panels of the plot: each kind of callers, evenly and in bursts."""
    rows = list(rows)
    panels = []
    for callers in CURVES:
        for cv in (BURSTS[0], BURSTS[2]):
            own = [row for row in rows if row.cell.group == callers.name and row.cell.cv == cv]
            if not own:
                continue
            lines = {
                name: [(row.cell.load, row.figures[name].useful) for row in own]
                for name in own[0].figures
            }
            panels.append(Panel(f"{callers.name}, CV {cv:g}", lines))
    return panels


def _policies(rows: Sequence[Row]) -> str:
    groups = list(dict.fromkeys(row.cell.group for row in rows))
    head = ["policy", "setting", *groups, "all cells", "worst cell"]
    lines = []
    for name in CHOSEN:
        own = [[row.share(name) for row in rows if row.cell.group == group] for group in groups]
        every = [row.share(name) for row in rows]
        means = [_short(statistics.mean(shares)) for shares in own]
        setting = CHOSEN[name] or "-"
        lines.append([name, setting, *means, _short(statistics.mean(every)), _short(min(every))])
    lines.sort(key=lambda line: line[-2], reverse=True)
    return _table(head, lines)


def _curve(rows: Sequence[Row], group: str) -> str:
    own = {(row.cell.load, row.cell.cv): row for row in rows if row.cell.group == group}
    lines = []
    for cv in BURSTS:
        cells = [_cell(own[load, cv]) if (load, cv) in own else "" for load in LOADS]
        lines.append([f"CV {cv:g}", *cells])
    return _table([group, *(f"{load:g} x" for load in LOADS)], lines)


def _others(rows: Sequence[Row]) -> str:
    names = {callers.name for callers in CURVES}
    lines = []
    for row in rows:
        if row.cell.group not in names:
            figure = row.figures[OURS]
            lines.append([row.cell.name, _cell(row), _short(figure.answered)])
    return _table(["cell", "mlserve (best other)", "calls answered in time"], lines)


def _cell(row: Row) -> str:
    ours, rival = _short(row.share(OURS)), _short(row.share(row.rival))
    return f"**{ours}** ({rival} {row.rival})" if row.is_lost else f"{ours} ({rival})"


def _sums(rows: Sequence[Row], lost: Sequence[Row], below: Sequence[Row]) -> str:
    known = [row for row in rows if row.cell.callers.is_asked]
    worst = max(row.figures[OURS].wasted for row in rows if row.cell.wrong_by == 1)
    first = (
        f"mlserve is the best, or within {CLOSE:g} of it, in {len(rows) - len(lost)} of "
        f"{len(rows)} cells. Where deadlines are known it is within 2 % of clairvoyant EDF in "
        f"{len(known) - len(below)} of {len(known)} cells. The most work in vain in a cell with "
        f"right estimates is {worst:.1%} of the server's time."
    )
    parts = [first]
    if lost:
        lines = [
            [row.cell.name, _short(row.share(OURS)), _short(row.share(row.rival)), row.rival]
            for row in sorted(lost, key=lambda row: row.share(OURS) - row.share(row.rival))
        ]
        parts += ["Lost to another policy:", _table(["cell", "mlserve", "best", "which"], lines)]
    if below:
        lines = [
            [row.cell.name, _short(row.share(OURS)), _short(row.share(row.rival))]
            for row in sorted(below, key=lambda row: row.share(OURS))
        ]
        head = ["cell", "mlserve", "best other"]
        parts += ["Deadlines known, more than 2 % below clairvoyant EDF:", _table(head, lines)]
    return "\n\n".join(parts)


def _picture() -> str:
    name, text = "overload-policies", "Useful work over the load, by policy"
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" '
        f'srcset="images/{name}-dark.svg">\n'
        f'  <img alt="{text}" src="images/{name}-light.svg">\n</picture>'
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _short(share: float) -> str:
    return f"{share:.3f}"
