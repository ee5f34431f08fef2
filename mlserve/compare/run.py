"""Run a whole comparison: the stages first, then the servers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from mlserve.compare.asking import panel, requests_for, served
from mlserve.compare.result import Comparison, TargetResult
from mlserve.compare.stages import compare_stage_by_stage
from mlserve.compare.targets import ComparedTarget
from mlserve.deadline import Deadline
from mlserve.errors import UsageError
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import UpRequest


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Options of a comparison.

    `tolerance` is the largest difference that counts as equal; each image is sent `runs` times, and
    each request has `timeout` seconds.
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
"""Called with the current step, how much of it is done, of how much, and what is next."""


def compare(
    targets: Sequence[ComparedTarget],
    images: Sequence[str],
    options: CompareOptions,
    progress: Progress,
) -> Comparison:
    """Compare the targets on these image files; the first target is the reference.

    Everything started here is stopped at the end, also if the user interrupts. Raises the errors of
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
        results = _ask(targets, requests, images, options, interrupts, progress)
    for result in results:
        for row, found in zip(result.rows, stages.get(result.target.name, ()), strict=False):
            row.stages = found
    return Comparison(tuple(images), results, options.tolerance, options.runs)


def _ask(
    targets: Sequence[ComparedTarget],
    requests: Sequence[UpRequest | None],
    images: Sequence[str],
    options: CompareOptions,
    interrupts: Interrupts,
    progress: Progress,
) -> list[TargetResult]:
    def tell(what: str) -> None:
        progress("servers", 0, len(targets), what)

    total = options.runs * len(images)
    with served(targets, requests, interrupts, tell) as servers, ExitStack() as stack:
        asked = panel(servers, options.timeout, stack)
        rows = asked.ask_all(
            images, options.runs, lambda done, name: progress("answers", done, total, name)
        )
        return [
            TargetResult(
                replace(server.target, model=client.model), own, server.rss(), server.ready_seconds
            )
            for server, client, own in zip(servers, asked.clients, rows, strict=True)
        ]
