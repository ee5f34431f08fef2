"""`mlserve compare`: send the same images to several backends or endpoints, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli.arguments import StoreOption
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    note,
    print_json,
    print_table,
    print_wrapped,
    say,
)
from mlserve.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mlserve.cli.output import ProgressLine
    from mlserve.compare.result import Comparison
    from mlserve.compare.run import CompareOptions
    from mlserve.compare.targets import ComparedTarget

_LISTED = 10
"""Most differences printed as text."""
_LOOKING = 30.0
"""Seconds that listing the folders may take."""


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET TARGET... FILE...",
            help="At least two targets, the reference first, then image files or folders. A target "
            "is BACKEND or BACKEND@VERSION for an exported model, host:port or a URL for an "
            "endpoint.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The model to compare. Repeat it to give one for each target, in the same order. "
            "Default: the only exported one, or the only one that an endpoint serves.",
        ),
    ] = None,
    store: StoreOption = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="X",
            help="The largest difference that counts as equal, in each stage.",
        ),
    ] = 1e-4,
    runs: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many times to ask about each image.")
    ] = 3,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="The time allowed for each question, in seconds."),
    ] = 30.0,
    output: OutputOption = OutputFormat.TEXT,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a report with plots as one HTML file."),
    ] = None,
) -> None:
    """Compare the answers of backends or endpoints: stage by stage, end to end, and their times.

    Exported models run stage by stage (decoded pixels, resized tensor, scores), each in a process
    of its own. Then a server is started for each, and servers and endpoints are asked in turn; the
    servers are stopped at the end. A bad image agrees if all refuse it for the same reason.

    Exit codes: 0 all labels agree and every difference is inside the tolerance, 8 something
    differs; others as for `mlserve up` and `mlserve predict`.

    For example:

    mlserve compare tfserving onnxruntime photos/ --report report.html

    mlserve compare 127.0.0.1:8500 gpu-host:8500 --model m --model m_fp16 photos/
    """
    from mlserve.compare.run import CompareOptions
    from mlserve.compare.targets import resolve, split

    options = CompareOptions(tolerance, runs, timeout)
    words, files = split(arguments)
    if report is not None:
        _require_writable(report)
    targets = resolve(words, model or (), store)
    _warn_of_random_weights(targets)
    _tell_of_orientation(targets)
    found = _compare(targets, files, options)
    _print(found, output)
    if report is not None:
        _write(report, found)
    if not found.is_same:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def _compare(
    targets: list[ComparedTarget],
    files: list[str],
    options: CompareOptions,
) -> Comparison:
    from mlserve.cli.images import gather
    from mlserve.compare.run import compare as run
    from mlserve.deadline import Deadline

    images = gather(files, Deadline.after(_LOOKING)).names
    progress = _Progress()
    try:
        return run(targets, images, options, progress)
    finally:
        progress.clear()


class _Progress:
    """Shows the current step as one line on a terminal."""

    def __init__(self) -> None:
        self._line: ProgressLine | None = None

    def __call__(self, doing: str, done: int, total: int, name: str) -> None:
        from mlserve.cli.output import ProgressLine

        self._line = ProgressLine(total)
        self._line.draw(done, f"{doing}: {name}")

    def clear(self) -> None:
        """Clear the line."""
        if self._line:
            self._line.clear()


def _tell_of_orientation(targets: list[ComparedTarget]) -> None:
    """Say which exported models apply the EXIF orientation, if not all do."""
    from mlserve.pipeline import Exif

    manifests = {target.name: target.artifact.manifest for target in targets if target.artifact}
    applied = {
        name: m.pipeline.exif for name, m in manifests.items() if m is not None and m.pipeline
    }
    if len(set(applied.values())) > 1:
        turning = ", ".join(name for name, exif in applied.items() if exif is Exif.APPLY)
        note(f"only {turning} applies the EXIF orientation, so rotated photos differ")


def _print(found: Comparison, output: OutputFormat) -> None:
    from mlserve.compare import report

    if output is OutputFormat.JSON:
        print_json(found.to_json())
        return
    print_table(report.DIFFERENCE_HEADER, report.difference_rows(found))
    say("\ntimes and memory")
    print_table(report.COST_HEADER, report.cost_rows(found))
    worst = report.worst_rows(found)
    if worst:
        say("\nworst images")
        print_table(report.IMAGE_HEADER, worst)
    problems = report.problem_rows(found)
    if problems:
        say("\nwhat differs")
        print_table(report.PROBLEM_HEADER, problems[:_LISTED])
    if len(problems) > _LISTED:
        say(f"and {len(problems) - _LISTED} more; --output json lists them all")
    say()
    print_wrapped(report.verdict(found), "")


def _warn_of_random_weights(targets: list[ComparedTarget]) -> None:
    for target in targets:
        if target.serving and target.serving.has_random_weights:
            note(f"warning: {target.name} has random weights: its answers mean nothing")


def _require_writable(report: Path) -> None:
    """Raise UsageError for an unwritable report path before the long work begins."""
    if report.is_dir() or not report.absolute().parent.is_dir():
        raise UsageError(
            f"the report {report} cannot be written: "
            + ("it is a folder" if report.is_dir() else "its folder does not exist"),
            hint="give the path of a file, for example --report report.html",
        )


def _write(report: Path, found: Comparison) -> None:
    from mlserve.compare.report import page

    try:
        report.write_text(page(found), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"the report {report} cannot be written: {error.strerror or error}",
            hint="give another path with --report",
        ) from error
