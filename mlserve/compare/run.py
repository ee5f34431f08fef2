"""Run a whole comparison: the stages first, then the servers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from mlserve.client import Client
from mlserve.compare.asking import Served, connected, requests_for, runs_on, served
from mlserve.compare.images import ImagePanel
from mlserve.compare.result import ImageComparison, ImagesResult
from mlserve.compare.rows import TablePanel, TableQuestion
from mlserve.compare.rows_result import RowTally, TableComparison, TableResult
from mlserve.compare.stages import compare_stage_by_stage
from mlserve.compare.targets import ComparedTarget
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, UsageError
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import UpRequest


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Options of a comparison.

    `tolerance` is the largest difference that counts as equal; each image or row is sent `runs`
    times, and each request has `timeout` seconds.
    """

    tolerance: float = 1e-4
    runs: int = 3
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Raise UsageError for a timeout or a tolerance that is not a finite number."""
        Deadline.after(self.timeout)
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise UsageError(
                f"the tolerance must be a number of at least 0, not {self.tolerance:g}",
                hint="give for example --tolerance 1e-4",
            )


Progress = Callable[[str, int, int, str], None]
"""Called with the current step, how much of it is done, of how much (0: unknown), what is next."""
_OFTEN = 100  # rows
_NAMING = 5.0
"""Seconds in which a server that has just answered may say what runs it."""


def compare_images(
    targets: Sequence[ComparedTarget],
    images: Sequence[str],
    options: CompareOptions,
    progress: Progress,
) -> ImageComparison:
    """Compare the targets on these image files; the first target is the reference.

    Everything started here is stopped at the end, also if the user interrupts: then the result is
    not whole, or KeyboardInterrupt is raised if there is none yet. Raises the errors of
    `mlserve up` for a server that does not start, those of `mlserve predict` for an endpoint that
    does not answer, and PluginError for a runtime that is not installed.
    """
    requests = requests_for(targets)  # report what is missing before anything starts
    count = len(images)
    with Interrupts.watched() as interrupts:
        stages = compare_stage_by_stage(
            targets,
            images,
            options.timeout,
            interrupts,
            lambda done, name: progress("stages", done, count, name),
        )
        results, is_whole = _ask_images(targets, requests, images, options, interrupts, progress)
    for result in results:
        for row, found in zip(result.rows, stages.get(result.target.name, ()), strict=False):
            row.stages = found
    return ImageComparison(
        images=tuple(images[: len(results[0].rows)]),
        targets=results,
        tolerance=options.tolerance,
        runs=options.runs,
        is_whole=is_whole,
    )


def compare_tables(
    targets: Sequence[ComparedTarget],
    question: TableQuestion,
    options: CompareOptions,
    progress: Progress,
    tell: Callable[[str], None],
) -> TableComparison:
    """Compare the targets on the rows of tables; `tell` receives notes about the files.

    Raises what `compare_images` raises, and UsageError for a file that a target cannot take or
    that has no rows; if no target answered a row, the error of the first.
    """
    requests = requests_for(targets)
    with (
        Interrupts.watched() as interrupts,
        _connected(targets, requests, interrupts, progress) as (servers, clients),
    ):
        asked = TablePanel.of(servers, clients, question, options.timeout, tell)
        results = [
            TableResult(
                target=replace(server.target, model=client.model),
                ready_seconds=server.ready_seconds,
            )
            for server, client in zip(servers, clients, strict=True)
        ]
        tally = RowTally(results, options.tolerance)
        try:
            for done, (run, outcomes) in enumerate(asked.rows(options.runs)):
                if done % _OFTEN == 0:
                    progress("answers", done, 0, f"{done} rows")
                tally.add(outcomes, is_first_run=run == 0)
        except KeyboardInterrupt:
            if not tally.rows:
                raise
            tally.is_whole = False
        for server, target, result in zip(servers, asked.targets, results, strict=True):
            result.rss, result.times = server.rss(), target.asking.milliseconds
        for client, result in zip(clients, results, strict=True):
            result.runs_on = _runs_on(client)
    return tally.comparison(question.files, options.runs)


def _ask_images(
    targets: Sequence[ComparedTarget],
    requests: Sequence[UpRequest | None],
    images: Sequence[str],
    options: CompareOptions,
    interrupts: Interrupts,
    progress: Progress,
) -> tuple[list[ImagesResult], bool]:
    """Return what came of each target, and whether all images were asked about."""
    total = options.runs * len(images)
    with _connected(targets, requests, interrupts, progress) as (servers, clients):
        panel = ImagePanel(clients, options.timeout)
        rows = panel.ask_all(
            images, options.runs, lambda done, name: progress("answers", done, total, name)
        )
        results = [
            ImagesResult(
                target=replace(server.target, model=client.model),
                runs_on=_runs_on(client),
                rows=own,
                rss=server.rss(),
                ready_seconds=server.ready_seconds,
            )
            for server, client, own in zip(servers, clients, rows, strict=True)
        ]
        return results, panel.is_whole


def _runs_on(client: Client) -> str | None:
    """Return what the server says runs it; None if it does not say, or no longer answers."""
    try:
        return runs_on(client, _NAMING)
    except MlserveError:
        return None  # the answers, or their failures, are known already, and count


@contextmanager
def _connected(
    targets: Sequence[ComparedTarget],
    requests: Sequence[UpRequest | None],
    interrupts: Interrupts,
    progress: Progress,
) -> Iterator[tuple[list[Served], list[Client]]]:
    """Yield the targets, all answering, and a client of each."""

    def tell(what: str) -> None:
        progress("servers", 0, len(targets), what)

    with served(targets, requests, interrupts, tell) as servers, ExitStack() as stack:
        yield servers, connected(servers, stack)
