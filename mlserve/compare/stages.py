"""Runs the images through the stages of each exported model, and compares what comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlserve.compare.result import Stages
from mlserve.compare.stage_process import StageProcess
from mlserve.compare.targets import Target
from mlserve.launch.interrupts import Interrupts

Progress = Callable[[int, str], None]
"""Called with how many images are done, and the name of the next."""


def compare_stage_by_stage(
    targets: Sequence[Target],
    images: Sequence[str],
    timeout: float,
    interrupts: Interrupts,
    progress: Progress,
) -> dict[str, list[Stages]]:
    """By target's name a result for each image, against the first exported model.

    Endpoints, and the first exported model itself, have none. `timeout` is that of one image in one
    model. Raises what loading raises, and InferenceFailed for a process that ends.
    """
    exported = [target for target in targets if target.serving]
    if len(exported) < 2:  # noqa: PLR2004  a comparison has two sides
        return {}
    found: dict[str, list[Stages]] = {target.name: [] for target in exported[1:]}
    with _started(exported, interrupts) as processes:
        for done, image in enumerate(images):
            progress(done, image)
            for name, stages in _compare(processes, image, timeout):
                found[name].append(stages)
    return found


def _compare(
    processes: Sequence[StageProcess], image: str, timeout: float
) -> Iterator[tuple[str, Stages]]:
    from mlserve.compare.differences import compare_stages

    for process in processes:
        process.ask(image)
    refusals = [process.finish(timeout) for process in processes]
    reference, *others = zip(processes, refusals, strict=True)
    for other, refusal in others:
        both = (reference[1], refusal)
        if both == (None, None):
            yield other.target.name, compare_stages(reference[0].folder, other.folder)
        else:
            yield other.target.name, Stages({}, refusals=both)


@contextmanager
def _started(targets: Sequence[Target], interrupts: Interrupts) -> Iterator[list[StageProcess]]:
    """A loaded process for each target; all are gone at the end, and so are their files."""
    processes: list[StageProcess] = []
    with tempfile.TemporaryDirectory(prefix="mlserve-compare-") as folder:
        try:
            for index, target in enumerate(targets):
                with interrupts.held():
                    processes.append(StageProcess.start(target, Path(folder) / str(index)))
            for process in processes:
                process.wait_until_loaded()
            yield processes
        finally:
            with interrupts.held():
                for process in processes:
                    process.close()
