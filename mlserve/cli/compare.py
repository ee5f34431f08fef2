"""`mlserve compare`: send the same images or rows to several backends or endpoints, and compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import StoreOption, names_in
from mlserve.cli.model_arguments import complete_compared
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    ReportOption,
    note,
    print_json,
    print_table,
    print_wrapped,
    require_writable,
    say,
    write_report,
)
from mlserve.cli.repeat import command_line
from mlserve.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mlserve.cli.output import StatusLine
    from mlserve.compare.result import Comparison, ImageComparison
    from mlserve.compare.rows_result import TableComparison
    from mlserve.compare.run import CompareOptions
    from mlserve.compare.targets import ComparedTarget
    from mlserve.rows.kinds import FileKind

_LISTED = 10
"""Most differences printed as text."""
_LOOKING = 30.0
"""Seconds that listing the folders may take."""


def compare(
    ctx: typer.Context,
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET TARGET... FILE...",
            help="At least two targets, the reference first, then image files or folders, or "
            "tables (.csv, .tsv, .jsonl, .json, .npy, .npz). A target is BACKEND, "
            "BACKEND@VERSION or BACKEND/MODEL@VERSION for an exported model, host:port or a URL "
            "for an endpoint.",
            show_default=False,
            autocompletion=complete_compared,
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The model to compare. Repeat it to give one for each target, in the same order. "
            "Default: the only exported one, or the only one that an endpoint serves.",
            autocompletion=completion.models,
        ),
    ] = None,
    store: StoreOption = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="X",
            help="The largest difference that counts as equal, in each stage of an image and in "
            "each output of a row. For a row, it is relative to the reference's value where that "
            "is above 1.",
        ),
    ] = 1e-4,
    runs: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many times to ask about each image or row.")
    ] = 3,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="The time allowed for each question, in seconds."),
    ] = 30.0,
    signature: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For tables: the signature to ask. Default: serving_default, or the only one.",
            show_default=False,
        ),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="For tables: the outputs to compare. Default: all of them.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
    report: ReportOption = None,
) -> None:
    """Compare the answers of backends or endpoints to images or rows of tables, and their times.

    For images, exported models run stage by stage (decoded pixels, resized tensor, scores), each in
    a process of its own. Then a server is started for each, and servers and endpoints are asked in
    turn; the servers are stopped at the end. Rows are asked about in batches, as `mlserve predict`
    does, and compared by the names of the outputs: text and whole numbers must be equal, other
    numbers within the tolerance; NaN equals NaN. A bad image or row agrees if all refuse it for the
    same reason.

    Exit codes: 0 all labels agree and every difference is inside the tolerance, 8 something
    differs, 130 interrupted: what was compared until then is told; others as for `mlserve up` and
    `mlserve predict`.

    For example:

    mlserve compare tfserving onnxruntime photos/ --report report.html

    mlserve compare onnxruntime@1 onnxruntime@2 rows.csv

    mlserve compare onnxruntime/m@1 openvino/m@2 photos/ --tolerance 0.05

    mlserve compare 127.0.0.1:8500 gpu-host:8500 --model m --model m_fp16 photos/
    """
    from mlserve.compare.run import CompareOptions
    from mlserve.compare.targets import resolve, split
    from mlserve.rows.kinds import tables_among

    options = CompareOptions(tolerance, runs, timeout)
    words, files = split(arguments)
    tables = tables_among(files)
    if not tables:
        _refuse_for_images(signature, outputs)
    if report is not None:
        require_writable(report)
    targets = resolve(words, model or (), store)
    _warn_of_random_weights(targets)
    found: ImageComparison | TableComparison
    if tables:
        found = _compare_tables(targets, tables, signature, outputs, options)
    else:
        found = _compare_images(targets, files, options)
    _print(found, output)
    if report is not None:
        _write(report, found, command_line(ctx))
    if not found.is_whole:
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    if not found.is_same:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def _compare_images(
    targets: list[ComparedTarget], files: list[str], options: CompareOptions
) -> ImageComparison:
    from mlserve.cli.images import gather
    from mlserve.compare.run import compare_images
    from mlserve.compare.targets import require_image_classifiers
    from mlserve.deadline import Deadline

    images = gather(files, Deadline.after(_LOOKING)).names
    require_image_classifiers(targets, images[0])
    _tell_of_pipelines(targets)
    progress = _Progress()
    try:
        return compare_images(targets, images, options, progress)
    finally:
        progress.clear()


def _compare_tables(
    targets: list[ComparedTarget],
    tables: list[tuple[str, FileKind]],
    signature: str | None,
    outputs: str | None,
    options: CompareOptions,
) -> TableComparison:
    from mlserve.background import run_within
    from mlserve.compare.rows import question_in
    from mlserve.compare.run import compare_tables
    from mlserve.compare.targets import require_models_of_tensors
    from mlserve.deadline import Deadline

    names = names_in(outputs)
    looking = Deadline.after(_LOOKING)
    question = run_within(
        looking, "reading the tables", lambda: question_in(tables, signature, names)
    )
    if question.signature is None and question.request is None:
        require_models_of_tensors(targets, question.files[0])
    progress = _Progress()
    try:
        return compare_tables(targets, question, options, progress, progress.note)
    finally:
        progress.clear()


def _refuse_for_images(signature: str | None, outputs: str | None) -> None:
    for name, value in (("--signature", signature), ("--outputs", outputs)):
        if value is not None:
            raise UsageError(
                f"{name} does not go with images",
                hint="leave it out; it goes with tables, such as rows.csv",
            )


class _Progress:
    """Shows the current step as one line on a terminal."""

    def __init__(self) -> None:
        self._line: StatusLine | None = None

    def __call__(self, doing: str, done: int, total: int, name: str) -> None:
        from mlserve.cli.output import ProgressLine, StatusLine

        if not total:
            self._line = StatusLine()
            self._line.show(f"{doing}: {name}")
            return
        self._line = bar = ProgressLine(total)
        bar.draw(done, f"{doing}: {name}")

    def note(self, text: str) -> None:
        """Print a note in place of the line."""
        self.clear()
        note(text)

    def clear(self) -> None:
        """Clear the line."""
        if self._line:
            self._line.clear()


def _tell_of_pipelines(targets: list[ComparedTarget]) -> None:
    """Say in which steps before the model the exported pipelines differ."""
    from mlserve.pipeline import Exif

    manifests = {target.name: target.artifact.manifest for target in targets if target.artifact}
    pipelines = {name: m.pipeline for name, m in manifests.items() if m is not None and m.pipeline}
    turning = [name for name, pipeline in pipelines.items() if pipeline.exif is Exif.APPLY]
    if turning and len(turning) < len(pipelines):
        named = ", ".join(turning)
        note(f"only {named} applies the EXIF orientation, so rotated photos differ")
    names = list(pipelines)
    steps = [pipelines[name].preprocessing for name in names]
    unlike = [name for name, its in zip(names, steps, strict=True) if its != steps[0]]
    if unlike:
        note(
            f"{', '.join(unlike)} and {names[0]} were exported with different options about pixels "
            "(such as --resize, --antialias, --mean), so their inputs differ"
        )


def _print(found: ImageComparison | TableComparison, output: OutputFormat) -> None:
    from mlserve.compare import tables
    from mlserve.compare.result import ImageComparison

    if output is OutputFormat.JSON:
        print_json(found.to_json())
        return
    if isinstance(found, ImageComparison):
        _print_images(found)
    else:
        _print_tables(found)
    say()
    print_wrapped(tables.verdict(found), "")


def _print_images(found: ImageComparison) -> None:
    from mlserve.compare import tables

    print_table(tables.DIFFERENCE_HEADER, tables.difference_rows(found))
    _print_costs(found)
    worst = tables.worst_rows(found)
    if worst:
        say("\nworst images")
        print_table(tables.IMAGE_HEADER, worst)
    problems = tables.problem_rows(found)
    _print_problems(tables.PROBLEM_HEADER, problems[:_LISTED], len(problems))


def _print_tables(found: TableComparison) -> None:
    from mlserve.compare import rows_report

    print_table(rows_report.DIFFERENCE_HEADER, rows_report.difference_rows(found))
    _print_costs(found)
    shown = rows_report.problem_rows(rows_report.worst(found, _LISTED))
    _print_problems(rows_report.PROBLEM_HEADER, shown, len(found.problems))


def _print_costs(found: Comparison) -> None:
    from mlserve.compare import tables

    say("\nagreement, times and memory")
    print_table(tables.COST_HEADER, tables.cost_rows(found))


def _print_problems(header: Sequence[str], shown: Sequence[Sequence[str]], count: int) -> None:
    if shown:
        say("\nwhat differs")
        print_table(header, shown)
    if count > len(shown):
        say(f"and {count - len(shown)} more; --output json lists them all")


def _warn_of_random_weights(targets: list[ComparedTarget]) -> None:
    for target in targets:
        if target.served and target.served.has_random_weights:
            note(f"warning: {target.name} has random weights: its answers mean nothing")


def _write(report: Path, found: ImageComparison | TableComparison, command: str) -> None:
    from mlserve.compare import images_report, rows_report
    from mlserve.compare.result import ImageComparison

    if isinstance(found, ImageComparison):
        write_report(report, images_report.page(found, command))
    else:
        write_report(report, rows_report.page(found, command))
