"""Run requests of the same form as one batch, each with its own answer.

    decode each -> group those that agree -> stack, run once, split -> encode each

A request that fails fails alone: one that cannot be read never enters a batch, and if a batch
fails, each of its requests is run by itself, so that only the one at fault gets an error, with the
right index in it. Everything here runs on a worker's thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed
from mlserve.server.engine.job import Job
from mlserve.server.telemetry.statistics import Execution

if TYPE_CHECKING:
    from mlserve.backend import Tensors


def run_jobs(jobs: Sequence[Job[Any]]) -> list[int]:
    """Answer each of the jobs; return the number of jobs in each batch that was run.

    A job's failure is its `error`; nothing is raised.
    """
    for job in jobs:
        job.decode()
        job.require_time()
    sizes = [_run(group) for group in _alike(job for job in jobs if job.error is None)]
    for job in jobs:
        job.encode()
    return [size for size in sizes if size]


def can_join(first: Job[Any], other: Job[Any]) -> bool:
    """Return whether the two may turn out to have the same form.

    If the signature is unknown before decoding, that depends on what they seem to ask for.
    """
    asked = {job.call.signature for job in (first, other)} - {""}
    signatures = first.loaded.runner.signatures
    named = [signatures[name] for name in asked if name in signatures]
    return (
        first.loaded is other.loaded
        and not first.loaded.has_dependent_rows
        and len(asked) <= 1
        and any(signature.has_rows for signature in named or signatures.values())
    )


def _alike(jobs: Iterable[Job[Any]]) -> list[list[Job[Any]]]:
    """Group the jobs by signature, dtypes and all sizes but the first."""
    groups: dict[object, list[Job[Any]]] = {}
    for job in jobs:
        groups.setdefault(_form(job), []).append(job)
    return list(groups.values())


def _form(job: Job[Any]) -> object:
    arrays = sorted(job.inputs.items())
    rows = {array.shape[:1] for _, array in arrays}
    if job.signature is None or not job.signature.has_rows or len(rows) != 1 or () in rows:
        return job
    return job.signature.name, tuple((name, a.dtype, a.shape[1:]) for name, a in arrays)


def _run(jobs: Sequence[Job[Any]]) -> int:
    """Run the jobs; return how many still had to run, as some may have been given up meanwhile."""
    wanted = [job for job in jobs if job.is_wanted()]
    is_done = len(wanted) > 1 and _run_as_one(wanted)
    for job in () if is_done else wanted:
        job.run()
    return len(wanted)


def _run_as_one(jobs: Sequence[Job[Any]]) -> bool:
    """Run the jobs as one batch; return False on any error, and each must then run alone."""
    started = time.monotonic()
    rows = [job.rows for job in jobs]
    for job in jobs:
        job.doing = "running the model"
    try:
        parts = _split(_outputs(jobs), rows)
    except BaseException:  # noqa: BLE001 - alone, each gets its own error, or none
        return False
    finally:
        for job in jobs:
            job.times.run = time.monotonic() - started
    loaded, times = jobs[0].loaded, tuple(job.times for job in jobs)
    execution = Execution(loaded.model, loaded.version, sum(rows), times)
    for job, part in zip(jobs, parts, strict=True):
        job.outputs, job.execution = part, execution
    return True


def _outputs(jobs: Sequence[Job[Any]]) -> Tensors:
    first = jobs[0]
    assert first.signature is not None
    inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in first.inputs}
    latest: Deadline = max((job.deadline for job in jobs), key=lambda deadline: deadline.expires_at)
    return first.loaded.runner.run(first.signature.name, inputs, latest)


def _split(outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """Split the outputs into those of each job, which has that many rows."""
    ends = np.cumsum([0, *rows])
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != ends[-1]:
            raise InferenceFailed(
                f"output {name!r} has shape {list(array.shape)} for a batch of {ends[-1]}",
                hint="this model cannot be batched: serve it with --max-batch-size 1",
            )
    return [
        {name: array[start:end] for name, array in outputs.items()} for start, end in pairwise(ends)
    ]
