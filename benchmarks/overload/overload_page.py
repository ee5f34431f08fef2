"""Write the measured part of docs/overload.md, and its plots, from the figures of `run.py`.

    python benchmarks/overload/overload_page.py FILE.json ...

`run.py --page` does the same at its end. Files of several runs are put together: those with
`--processes` fill a column of their own, and those of another version (`--against`) another one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cases import CASES, GROUPS, Case, Target
from courses import Bar, Row, bars, courses, write_plots

from mlserve.system import usable_cpus

ROOT = Path(__file__).parents[2]
PAGE, IMAGES = ROOT / "docs" / "overload.md", ROOT / "docs" / "images"
BEGIN = "<!-- written by benchmarks/overload/run.py: what stands here is lost the next time -->"
END = "<!-- end of what benchmarks/overload/run.py writes -->"
COURSES = ("leave-1s", "leave-mixed", "told-1s-10x", "stopped", "storm", "neighbour", "slower",
           "bursts")  # fmt: skip
_FIGURES = {
    "share": "of the capacity",
    "steady_share": "from the third second on",
    "attainment": "answered in time",
    "attainment_during": "answered during it",
    "attainment_after": "answered after it",
    "of_ideal": "of what could be answered",
    "slow_share": "slow model, of its share",
    "fast_share": "fast model, of its share",
    "sheddable_attainment": "sheddable, answered in time",
    "default_attainment": "default",
    "critical_attainment": "critical",
    "goodput": "answers a second",
    "p99_ms": "p99, ms",
}
_OF_KIND = {
    "attainment_during": "shock",
    "sheddable_attainment": "priorities",
    "default_attainment": "priorities",
    "critical_attainment": "priorities",
    "goodput": "closed",
    "p99_ms": "closed",
}
"""The figures that are shown of the cases of one kind, though nothing has to be reached."""
_TRANSPORTS = {"rest": "REST", "grpc": "gRPC"}


@dataclass(frozen=True)
class Found:
    """The rows of one case: on this version, with several processes, and on another version."""

    case: Case
    rows: Sequence[Row]

    def of(self, *, in_processes: bool = False, is_other: bool = False) -> list[Row]:
        """Return the rows of that server."""
        return [
            row
            for row in self.rows
            if (row["processes"] is not None) == in_processes and row["is_other"] == is_other
        ]

    def median(self, name: str, **which: bool) -> float | None:
        """Return the median of a figure over the repeats; None if it was not measured."""
        values = [row[name] for row in self.of(**which) if name in row]
        return statistics.median(values) if values else None


def found_in(rows: Iterable[Row]) -> dict[str, Found]:
    """Return what was found, by case, in the order of the cases."""
    rows = list(rows)
    by_case = {name: [row for row in rows if row["case"] == name] for name in CASES}
    return {name: Found(CASES[name], own) for name, own in by_case.items() if own}


def write_page(rows: Iterable[Row]) -> None:
    """Write the tables into the page, and the plots beside it. Raises ValueError for its marks."""
    found = found_in(rows)
    overloads = [each for each in found.values() if each.case.times > 1 and _is_share(each.case)]
    title = "Answers in time, as a share of the capacity"
    if overloads:
        shown = [_bar(each) for each in overloads]
        write_plots(IMAGES / "overload-shares", partial(bars, title, shown))
    panels = [
        (f"{_callers(each.case)}, {each.case.times:g} x{_shock(each.case)}", each.of()[0])
        for name, each in found.items()
        if name in COURSES and each.of()
    ]
    if panels:
        title = "Calls (grey) and answers (blue) a second"
        write_plots(IMAGES / "overload-courses", partial(courses, title, panels))
    PAGE.write_text(replaced(PAGE.read_text(), section(found, bool(overloads), bool(panels))))


def replaced(page: str, part: str) -> str:
    """Return the page with that part between the markers. Raises ValueError without markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} needs one line {BEGIN} and, after it, one line {END}")
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{after}"


def section(found: dict[str, Found], has_shares: bool, has_courses: bool) -> str:
    """Return the whole part in Markdown."""
    parts = [_measured_on(found)]
    if has_shares:
        parts.append(_picture("overload-shares", "Answers in time as a share of the capacity"))
    for heading, names in GROUPS.items():
        own = [found[name] for name in names if name in found]
        if own:
            parts += [f"### {heading}", _table(own)]
    if has_courses:
        parts += ["### Over the seconds", _picture("overload-courses", "Calls and answers")]
    return "\n\n".join([*parts, _sums(found)])


def _measured_on(found: dict[str, Found]) -> str:
    seconds = sorted({row["seconds"] for each in found.values() for row in each.rows})
    return (
        f"Measured on {usable_cpus()} CPUs ({platform.machine()}), with the generator on the same "
        f"ones; each load took {seconds[0]:g} to {seconds[-1]:g} s. Beside a figure stands what it "
        "has to reach; one in **bold** does not."
    )


def _table(own: Sequence[Found]) -> str:
    """Return a table of the figures that any of these cases has to reach, or is shown by."""
    names = [name for name in _FIGURES if any(_shows(each.case, name) for each in own)]
    others = [
        (which, heading)
        for which, heading in (("in_processes", "several processes"), ("is_other", "before"))
        if any(each.of(**{which: True}) for each in own)
    ]
    head = ["load", "callers", *(_FIGURES[name] for name in names), *(h for _, h in others)]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for each in own:
        cells = [_figure(each, name) for name in names]
        beside = [_short(each.median(_main(each.case), **{which: True})) for which, _ in others]
        lines.append(" | ".join([_load(each.case), _callers(each.case), *cells, *beside]))
    return "\n".join(f"| {line} |" for line in lines)


def _figure(found: Found, name: str) -> str:
    value = found.median(name) if _shows(found.case, name) else None
    goal = _goal(found.case, name)
    if value is None or goal is None:
        return _short(value)
    shown = _short(value) if goal.is_met(value) else f"**{_short(value)}**"
    return f"{shown} ({goal})"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


def _shows(case: Case, name: str) -> bool:
    if _goal(case, name) is not None:
        return True
    if name in _OF_KIND:
        return case.kind == _OF_KIND[name]
    return name in {"share", "steady_share"} and case.times > 1 and _is_share(case)


def _is_share(case: Case) -> bool:
    return case.kind in {"open", "own", "priorities"}


def _goal(case: Case, name: str) -> Target | None:
    return next((goal for goal in case.targets if goal.figure == name), None)


def _main(case: Case) -> str:
    """Return the name of the figure that says most of a case."""
    goals = [goal.figure for goal in case.targets]
    return next(name for name in (*goals, *_FIGURES) if name in _FIGURES and _shows(case, name))


def _bar(found: Found) -> Bar:
    case, goal = found.case, _goal(found.case, "share")
    name = f"{case.times:g} x, {_callers(case)}, {case.model}, {_TRANSPORTS[case.transport]}"
    share = found.median("share") or 0.0
    other = found.median("share", is_other=True)
    return Bar(name, share, None if goal is None else goal.value, other)


def _load(case: Case) -> str:
    where = f"{case.model}, {_TRANSPORTS[case.transport]}"
    server = "" if case.server == "mlserve" else f"the usual server{case.server[5:]}; "
    if case.kind in {"closed", "burst"}:
        return f"{server}{where}"
    models = _TRANSPORTS[case.transport] if case.kind == "two" else where
    return f"{server}{case.times:g} x, {models}{_shock(case)}"


def _shock(case: Case) -> str:
    return f", {case.shock}" if case.shock else ""


def _callers(case: Case) -> str:
    own = "mlserve's client, " if case.kind == "own" else ""
    return f"{own}{case.about}"


def _picture(name: str, alt: str) -> str:
    return "\n".join(
        [
            "<picture>",
            f'<source media="(prefers-color-scheme: dark)" srcset="images/{name}-dark.svg">',
            f'<img alt="{alt}" src="images/{name}-light.svg">',
            "</picture>",
        ]
    )


def _sums(found: dict[str, Found]) -> str:
    """Return what holds for all loads together."""
    own = [each for each in found.values() if each.case.server == "mlserve" and not each.case.shock]
    rows = [row for each in own for row in each.of()]
    late = sum(row["ended"]["late"] for row in rows)
    wasted = max((row["wasted"] for row in rows), default=0.0)
    refusals = [row["refusal_cpu"] for row in rows if row["refusal_cpu"] and row["times"] >= 10]
    idle = max((row["idle_after"] for row in rows), default=0.0)
    lines = [
        "| over all loads without a shock | |",
        "| --- | --- |",
        f"| answers after their deadline | {late} |",
        f"| work for callers who had left or whose time was over, at most | {wasted:.1%} |",
        f"| idle after the load, at most | {idle:.2f} s |",
    ]
    if refusals:
        usual = statistics.median(refusals) * 1000
        lines.append(f"| CPU of the server for a refused call, at 10 x | {usual:.2f} ms |")
    return "\n".join(lines)


def main() -> None:
    """Write the page from files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    files = parser.parse_args().files
    write_page(row for file in files for row in json.loads(file.read_text()))


if __name__ == "__main__":
    main()
