"""Compare mlserve's admission with other policies, simulated: tables and plots of docs/overload.md.

    python benchmarks/policies/run.py [--calls 1000] [--processes 2] [--cells TEXT] [--page]

In each cell the same calls arrive at each policy, and the same server runs them
(`mlserve.admission.replay`); mlserve is its own admission code. What is compared is the work whose
answers come in time, to callers that are still there. `--settings` compares the settings of the
other policies instead; the best of each over all cells is what takes part.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from cells import CALLS, Cell, all_cells
from curves import write_curves
from outcomes import CHOSEN, CLAIRVOYANT, OURS, TRIED, Figure, Job, chosen, run_all
from policy_page import IMAGES, Row, curves_of, write_page


def main() -> None:
    """Run the cells and print what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=CALLS, help="of each cell, at least")
    parser.add_argument("--processes", type=int, default=1, help="that share the cells")
    parser.add_argument("--cells", default="", metavar="TEXT", help="those whose name has it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", action="store_true", help="try all settings")
    parser.add_argument("--page", action="store_true", help="write docs/overload.md")
    options = parser.parse_args()
    cells = [cell for cell in all_cells() if options.cells in cell.name]
    if not cells:
        sys.exit(f"no cell's name contains {options.cells!r}")
    runs = _settings() if options.settings else chosen(CHOSEN)
    jobs = [Job(cell, runs, options.calls, options.seed) for cell in cells]
    started, rows = time.monotonic(), []
    for cell, found in zip(cells, run_all(jobs, options.processes), strict=True):
        rows.append(Row(cell, {policy: figure for (policy, _), figure in found.items()}))
        if options.settings:
            rows[-1] = Row(cell, {f"{p}, {s}" if s else p: f for (p, s), f in found.items()})
        else:
            print(_line(cell, rows[-1].figures), flush=True)
    for name, share in _means(rows):
        print(f"{name:<40}{share:.4f} of clairvoyant EDF, on average")
    print(f"{time.monotonic() - started:.0f} s")
    if options.page:
        write_page(rows)
        write_curves(IMAGES / "overload-policies", curves_of(rows))


def _settings() -> list[tuple[str, str]]:
    return [(policy, setting) for policy, tried in TRIED.items() for setting in tried]


def _line(cell: Cell, figures: dict[str, Figure]) -> str:
    shares = "  ".join(f"{name} {figure.useful:.3f}" for name, figure in figures.items())
    ours = figures[OURS]
    return f"{cell.name}: {shares}  (wasted {ours.wasted:.3f}, {ours.decide * 1e6:.0f} us a call)"


def _means(rows: Sequence[Row]) -> list[tuple[str, float]]:
    names = rows[0].figures
    means = [(name, statistics.mean(row.share(name) for row in rows)) for name in names]
    return [(name, mean) for name, mean in means if name != CLAIRVOYANT]


if __name__ == "__main__":
    main()
