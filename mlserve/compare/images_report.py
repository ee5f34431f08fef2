"""The report of a comparison of images: the findings, a row for each image, the stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape

from mlserve.compare.findings import findings, first_difference, is_failed, is_label_changed
from mlserve.compare.report import document
from mlserve.compare.result import ImageComparison, ImagesResult, Row, badness
from mlserve.compare.tables import DIFFERENCE_HEADER, difference_rows, largest, short
from mlserve.errors import counted, readable
from mlserve.pipeline import Exif
from mlserve.report.page import Markup, Section, folded, paragraph, table
from mlserve.report.plots import Distances, distances
from mlserve.report.thumbnails import thumbnails, why_none

_PICTURES = 20
"""The worst images, which have a thumbnail."""
_ABOUT_STAGES = (
    "The largest difference from the first target, in each stage of the exports and in what the "
    "servers answer."
)
MOST_ROWS = 1000
"""The most rows of a table that is folded."""
_TITLE = "Largest score difference of each image"
_ABOUT_DISTANCES = (
    "The largest difference of a score, of each image in the order given. ∞ is another shape, or a "
    "number that is not finite."
)


def page(found: ImageComparison, command: str = "") -> str:
    """Return the whole report; `command` is the command line that makes it again."""
    stages = [
        paragraph(_ABOUT_STAGES, "soft"),
        table("Differences by stage", DIFFERENCE_HEADER, difference_rows(found), "plain"),
        *_distances(found),
    ]
    sections = [Section("Images", _images(found)), Section("Stages", stages)]
    folder = _folder(found.images)
    asked = counted(len(found.images), "image") + (f" in {readable(folder)}" if folder else "")
    return document(found, findings(found), sections, asked, command)


def _images(found: ImageComparison) -> list[Markup]:
    """Return a row for each image, the worst first; those that agree are folded."""
    order = sorted(range(len(found.images)), key=lambda number: _rank(found, number))
    pictures = thumbnails([found.images[number] for number in order[:_PICTURES]], _exif(found))
    start = len(_folder(found.images))
    differing, agreeing = list[list[Markup]](), list[list[Markup]]()
    for number in order:
        image = found.images[number]
        name = readable(image[start:].lstrip("/") if start else image)
        row = [Markup(pictures.get(image, "") + escape(name)), *_cells(found, number)]
        (differing if _differs(found, number) else agreeing).append(row)
    header = ("image", *(readable(result.target.name) for result in found.targets))
    parts = [paragraph(why, "soft")] if (why := why_none()) else []
    if differing:
        parts += [table("Images that differ", header, differing[:_PICTURES])]
    if more := differing[_PICTURES:]:
        title = f"{counted(len(more), 'image')} more with a difference"
        parts += [folded(title, _first_rows("More images that differ", header, more))]
    if agreeing:
        title = f"{counted(len(agreeing), 'image')} without a difference above the tolerance"
        parts += [folded(title, _first_rows("Images that agree", header, agreeing))]
    return parts


def _first_rows(about: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table of so many rows, and how many more there are."""
    shown = table(about, header, rows[:MOST_ROWS])
    if (more := len(rows) - MOST_ROWS) > 0:
        shown = Markup(shown + paragraph(f"And {more} more; --output json lists them all.", "soft"))
    return shown


def _rank(found: ImageComparison, number: int) -> tuple[int, float, float]:
    """Return what orders images: changed labels first, then failures, then how far they are."""
    reference, *others = (result.rows[number] for result in found.targets)
    if any(is_label_changed(reference, row) for row in others):
        kind = 0
    else:
        kind = 1 if any(row.disagreement for row in (reference, *others)) else 2
    furthest = max((badness(row) for row in others), default=0.0)
    scores = max((row.score_difference or 0.0 for row in others), default=0.0)
    return kind, -furthest, -scores


def _differs(found: ImageComparison, number: int) -> bool:
    rows = [result.rows[number] for result in found.targets]
    return any(True for row in rows for _ in row.problems(found.tolerance))


def _cells(found: ImageComparison, number: int) -> list[Markup]:
    """Return what each target answers to an image, the reference first."""
    reference, *others = (result.rows[number] for result in found.targets)
    return [_cell(None, reference, found.tolerance)] + [
        _cell(reference, row, found.tolerance) for row in others
    ]


def _cell(reference: Row | None, row: Row, tolerance: float) -> Markup:
    """Return the answer, and below it where it parts from the reference's, and how far."""
    answer = escape(readable(row.label or row.refusal or "no answer"))
    if row.disagreement is not None:
        is_label = reference is not None and is_label_changed(reference, row)
        words = answer if is_label else escape(readable(row.disagreement))
        answer = f'<strong class="different">{words}</strong>'
    below = " · ".join(_notes(row, tolerance))
    return Markup(f"{answer}<small>{escape(below)}</small>" if below else answer)


def _notes(row: Row, tolerance: float) -> list[str]:
    """Return what to say below an answer."""
    notes = [] if row.score is None else [f"score {row.score:.3f}"]
    if row.label is not None and is_failed(row):
        notes.append(f"once: {row.refusal}")
    if (apart := first_difference(row, tolerance)) is not None:
        notes.append(f"first in {apart[0]}: {largest(apart[1])}")
    elif row.stages and row.stages.differences:
        notes.append("no stage differs")
    elif row.stages and not row.stages.is_refused_alike:
        kinds = [kind or "taken" for kind in row.stages.refusals]
        notes.append(f"in the stages: {kinds[1]}, the reference {kinds[0]}")
    if row.stages and not row.stages.has_same_top_1:
        notes.append("another best class")
    if row.score_difference is not None:
        notes.append(f"end to end: {short(row.score_difference)}")
    return notes


def _exif(found: ImageComparison) -> Exif:
    """Return whether the first export turns images upright: thumbnails show what it sees."""
    for result in found.targets:
        manifest = result.target.artifact.manifest if result.target.artifact else None
        if manifest is not None and manifest.pipeline is not None:
            return manifest.pipeline.exif
    return Exif.IGNORE


def _folder(images: Sequence[str]) -> str:
    """Return the folder that all files are in; empty if there is none."""
    if len({os.path.isabs(image) for image in images}) > 1:  # noqa: PTH117  they are texts
        return ""
    return os.path.commonpath([os.path.dirname(image) for image in images])  # noqa: PTH120


def _distances(found: ImageComparison) -> list[Markup]:
    """Plot the largest score difference of each image, of the stages and end to end."""
    compared = [
        Distances(readable(result.target.name), number, values)
        for number, result in enumerate(found.targets)
        if (values := _apart(result))
    ]
    if not compared:
        return [paragraph("No scores were compared.", "soft")]
    tolerance = f"tolerance {found.tolerance:g}"
    drawn = distances(_TITLE, compared, len(found.images), found.tolerance, tolerance)
    about = _ABOUT_DISTANCES + (" Dashed: the tolerance." if found.tolerance else "")
    return [Markup(f"<h3>{_TITLE}</h3>"), drawn, paragraph(about, "soft")]


def _apart(result: ImagesResult) -> list[tuple[int, str, float]]:
    """Return the place, the name and the score difference of each image that has one."""
    values = [(i, readable(row.image), _largest_shown(row)) for i, row in enumerate(result.rows)]
    return [(i, image, value) for i, image, value in values if value is not None]


def _largest_shown(row: Row) -> float | None:
    found = [row.score_difference]
    if row.stages and "scores" in row.stages.differences:
        found.append(row.stages.differences["scores"].largest)
    return max((value for value in found if value is not None), default=None)
