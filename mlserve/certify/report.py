"""The report of `mlserve certify --report`: one HTML page with sentences, tables and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from mlserve.certify.result import Certified, FilesResult, GoldenResult, Outcome, Problem, brief
from mlserve.errors import counted, readable
from mlserve.report import page as html
from mlserve.report.machine import how_it_was_made
from mlserve.report.page import Markup, Section, paragraph, table
from mlserve.report.plots import Distances, distances
from mlserve.report.thumbnails import thumbnails, why_none

_PICTURES = 20
"""The first images that differ, which have a thumbnail."""
_SHOWN = 1000
"""The most differences that the page lists."""
_NOTHING = "-"
_LISTED = " " * 4
"""What a line of one golden input or file begins with, in the words of the terminal."""
_VERSION_HEADER = ("version", "outcome", "golden inputs", "largest", "allowed", "labels below")
_FILES_HEADER = ("version", "asked", "refused", "same", "largest", "allowed", "near")
_ABOUT_GOLDEN = (
    "How far each golden input is from the reference's answer, as a part of what the certificate "
    "allows. ∞ is an answer of another shape, none, or a difference where none is allowed."
)
_ABOUT_VERSIONS = (
    "“largest” is the largest difference from the reference on the golden inputs. “labels below”: "
    "a label can change only where the two best scores are closer than that."
)
_ABOUT_FILES = (
    "“near”: in how many answers the two best scores are so close that the largest difference "
    "could swap them."
)


def page(found: Sequence[Certified], command: str = "") -> str:
    """Return the whole report; `command` is the command line that makes it again."""
    rows = [_version_row(each) for each in found]
    versions = [
        paragraph(_ABOUT_VERSIONS, "soft"),
        table("Versions", _VERSION_HEADER, rows, "plain"),
    ]
    sections = [Section("Versions", versions), *_golden(found), *_files(found)]
    facts = [(readable(each.name), each.runs_on or "not asked") for each in found]
    how = how_it_was_made(command, facts)
    head = [_verdict(found), *_findings(found)]
    title = html.titled([each.name for each in found], "version", "checked here")
    return html.document(title, head, [*sections, how])


def _verdict(found: Sequence[Certified]) -> Markup:
    """Return the line that says whether all hold."""
    outcomes = [each.outcome for each in found]
    counts = {each: outcomes.count(each) for each in Outcome if each in outcomes}
    text = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    asked = counted(len(found), "version")
    if counts.keys() & {Outcome.DRIFTED, Outcome.FAILED}:
        return paragraph(f"does not hold: {asked}, {text}", "verdict different")
    if Outcome.HOLDS in counts:
        return paragraph(f"holds: {asked}, {text}", "verdict same")
    return paragraph(f"nothing could be checked: {asked}", "verdict different")


def _findings(found: Sequence[Certified]) -> Iterator[Markup]:
    """Yield what came of each version, in the words of the terminal; tables list what differs."""
    for each in found:
        first, *lines = (line for line in each.lines() if not line.startswith(_LISTED))
        yield Markup(f"<h2>{escape(first)}</h2>")
        if lines:
            yield html.findings(line.strip() for line in lines)


def _version_row(found: Certified) -> list[str]:
    golden = found.golden
    if golden is None:
        return [readable(found.name), found.outcome, *[_NOTHING] * 4]
    return [
        readable(found.name),
        found.outcome,
        f"{golden.same} of {golden.cases}",
        brief(golden.difference),
        brief(golden.tolerance),
        _NOTHING if golden.without_labels else brief(golden.bound),
    ]


def _golden(found: Sequence[Certified]) -> Iterator[Section]:
    """Yield the section on the golden inputs, if any was asked about."""
    asked = [(i, each.name, each.golden) for i, each in enumerate(found) if each.golden is not None]
    if not asked:
        return
    compared = [Distances(readable(name), i, _parts(golden)) for i, name, golden in asked]
    most = max(len(golden.distances) for _, _, golden in asked)
    drawn = distances("Difference of each golden input", compared, most, 1.0, "allowed")
    parts = [drawn, paragraph(_ABOUT_GOLDEN, "soft")]
    problems = [(name, problem) for _, name, golden in asked for problem in golden.problems]
    if problems:
        parts += [_problems("Golden inputs that differ", "golden input", problems, {})]
    yield Section("Golden inputs", parts)


def _parts(golden: GoldenResult) -> list[tuple[int, str, float]]:
    """Return each difference as a part of what is allowed."""
    return [
        (place, readable(name), _part(value, golden.tolerance))
        for place, (name, value) in enumerate(golden.distances)
    ]


def _part(value: float, allowed: float) -> float:
    """Return a difference as a part of what is allowed; infinite where none is."""
    return value / allowed if allowed > 0 else (math.inf if value else 0.0)


def _files(found: Sequence[Certified]) -> Iterator[Section]:
    """Yield the section on the user's files, if any was asked about."""
    asked = [(each, each.files) for each in found if each.files is not None]
    if not asked:
        return
    rows = [_files_row(each, files) for each, files in asked]
    parts = [paragraph(_ABOUT_FILES, "soft"), table("Your files", _FILES_HEADER, rows, "plain")]
    problems = [(each.name, problem) for each, files in asked for problem in files.problems]
    if problems:
        pictures: dict[str, Markup] = {}
        if asked[0][1].noun == "image":
            parts += [paragraph(why, "soft")] if (why := why_none()) else []
            worst = dict.fromkeys(problem.name for _, problem in problems)
            pictures = thumbnails([*worst][:_PICTURES])
        parts += [_problems("Files that differ", "file", problems, pictures)]
    yield Section("Your files", parts)


def _files_row(found: Certified, files: FilesResult) -> list[str]:
    near = None if found.golden is None else files.near(found.golden.bound)
    return [
        readable(found.name),
        counted(files.count, files.noun),
        str(files.refused),
        _NOTHING if files.same is None else str(files.same),
        _NOTHING if files.difference is None else brief(files.difference),
        _NOTHING if files.tolerance is None else brief(files.tolerance),
        _NOTHING if near is None else str(near),
    ]


def _problems(
    about: str, what: str, problems: Sequence[tuple[str, Problem]], pictures: dict[str, Markup]
) -> Markup:
    """Return a table of what differs, at most so many rows of it."""
    rows = [
        [
            Markup(pictures.get(problem.name, "") + escape(readable(problem.name))),
            readable(version),
            readable(problem.what),
        ]
        for version, problem in problems[:_SHOWN]
    ]
    shown = table(about, (what, "version", "what differs"), rows)
    if (more := len(problems) - len(rows)) > 0:
        shown = Markup(shown + paragraph(f"And {more} more; --output json lists them all.", "soft"))
    return shown
