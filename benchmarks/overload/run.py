"""What becomes of calls when there are more of them than a server can answer.

Each case has a server of its own with mlserve's default settings, which is told neither its
capacity nor how long its callers wait. Capacity is what that server answers to four callers, each
with one call after the other, measured just before and just after. Calls come at random moments
(Poisson), from a generator on the same machine. An answer counts in the second in which it comes.

    python benchmarks/overload/run.py [--case NAME ...] [--seconds 20] [--processes 2] [--json FILE]
                                     [--page]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cases import CASES, Case
from measured import Figures
from overload_page import write_page
from served import Installation, Server, serving
from subject import Subject
from usual import serving_usual

QUICK = ("leave-1s", "told-1s", "told-1s-grpc", "told-1s-10x", "usual")
_WIDTHS = "{:<22}{:>5}{:>9}{:>7}{:>8}{:>8}{:>6}{:>9}{:>7}{:>7}{:>8}{:>9}{:>9}  {}"
_HEAD = (
    "case",
    "load",
    "capacity",
    "share",
    "steady",
    "in time",
    "late",
    "refused",
    "left",
    "none",
    "wasted",
    "us/ref.",
    "gen.CPU",
    "",
)


def main() -> None:
    """Measure the cases and print a line for each."""
    options = _options()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mlserve-overload-") as folder:
        home = options.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        sources = (None, options.against) if options.against else (None,)
        installations = [Installation(home, source, options.sleeping) for source in sources]
        print(_WIDTHS.format(*_HEAD))
        for name in options.case or (QUICK if options.quick else CASES):
            for installation, figures in _measured(installations, CASES[name], options):
                is_other = installation.source is not None
                print(_line(figures, "other" if is_other else ""), flush=True)
                how = {"processes": options.processes, "is_other": is_other}
                found.append({**how, **figures.to_json()})
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.page:
        write_page(found)
    found = [each for each in found if not each["is_other"]]
    missed = [each for each in found if each["misses"]]
    for each in missed:
        print(f"missed: {each['case']}: {'; '.join(each['misses'])}")
    print(f"{len(found) - len(missed)} of {len(found)} reached their targets")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=CASES, metavar="NAME", help="repeat it; see --list"
    )
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--repeat", type=int, default=1, help="how often each case is run")
    parser.add_argument("--processes", type=int, help="processes that run the model")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="another mlserve's sources, served in turn"
    )
    parser.add_argument("--page", action="store_true", help="write docs/overload.md, too")
    parser.add_argument(
        "--sleeping", action="store_true", help="models that sleep: for a machine that is busy"
    )
    parser.add_argument("--home", type=Path, help="keep what is exported in this folder")
    parser.add_argument("--json", type=Path, help="write the figures into this file, too")
    options = parser.parse_args()
    if options.list:
        for case in CASES.values():
            goals = ", ".join(f"{goal.figure} {goal}" for goal in case.targets)
            load = f"{case.times:g} x, {case.model}, {case.transport}, {case.about}"
            print(f"{case.name:<22} {load}: {goals}")
        raise SystemExit
    return options


def _measured(
    installations: list[Installation], case: Case, options: argparse.Namespace
) -> Iterator[tuple[Installation, Figures]]:
    """Yield the figures of every repeat, of the installations in turn: A B, B A, ..."""
    for number in range(options.repeat):
        for installation in installations[:: -1 if number % 2 else 1]:
            with _server(installation, case, options.processes) as server:
                yield installation, Subject(server, case, options.seconds).run()


def _server(
    installation: Installation, case: Case, processes: int | None
) -> AbstractContextManager[Server]:
    if case.server == "mlserve":
        models = ("slow", "fast") if case.kind == "two" else (case.model,)
        return serving(installation, models, processes)
    limited_for = case.longest_wait if "limited" in case.server else None
    return serving_usual(installation, case.model, limited_for)


def _line(figures: Figures, which: str) -> str:
    data, refusal = figures.to_json(), figures.refusal_cpu
    ends = data["ended"]
    of_case = (f"{name} {value:.3f}" for name, value in figures.of_case.items())
    own = "  ".join([*([which] if which else []), *of_case])
    return _WIDTHS.format(
        figures.case.name,
        f"{figures.case.times:g}x",
        f"{figures.capacity.mean:.1f}/s",
        f"{figures.share:.3f}",
        f"{figures.steady_share:.3f}",
        f"{figures.attainment:.4f}",
        ends["late"],
        ends["refused"],
        ends["left"],
        ends["no answer in time"] + ends["failed"],
        f"{figures.wasted:.4f}",
        "-" if refusal is None else f"{refusal * 1e6:.0f}",
        f"{data['generator_cores']:.2f}",
        own,
    )


if __name__ == "__main__":
    main()
