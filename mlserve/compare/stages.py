"""Run the images through each exported model's stages, and compare the arrays."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np  # noqa: TID253

from mlserve import errors
from mlserve.artifact import Artifact
from mlserve.background import run_within
from mlserve.compare.result import STAGES, Difference, Stages
from mlserve.compare.targets import ComparedTarget
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, MlserveError
from mlserve.launch.logs import last_lines
from mlserve.launch.signals import Interrupts

Progress = Callable[[int, str], None]
"""Called with the number of finished images, and the name of the next."""

Array = np.ndarray[Any, Any]
_CHUNK = 1 << 22
"""Elements converted at a time: a 24-megapixel photo is never turned into floats as a whole."""
_TOP_K = 5
_LOAD_TIMEOUT = 120.0
_LAST_WORDS = 10  # lines
_LOG = "log"


def compare_stage_by_stage(
    targets: Sequence[ComparedTarget],
    images: Sequence[str],
    timeout: float,
    interrupts: Interrupts,
    progress: Progress,
) -> dict[str, list[Stages]]:
    """Return, by target name, a result for each image against the first exported model.

    Endpoints, and the first exported model itself, have none. `timeout` applies to one image in one
    model. Raises the errors of loading, and InferenceFailed for a process that ends.
    """
    exported = [target for target in targets if target.served]
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
def _started(
    targets: Sequence[ComparedTarget], interrupts: Interrupts
) -> Iterator[list[StageProcess]]:
    """Yield a loaded process for each target; end them and delete their files afterwards."""
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


@dataclass(frozen=True, slots=True)
class StageProcess:
    """A worker process, and the folder that it writes its arrays into."""

    target: ComparedTarget
    process: subprocess.Popen[bytes]
    folder: Path

    @classmethod
    def start(cls, target: ComparedTarget, folder: Path) -> StageProcess:
        """Start the process for an exported model, and create `folder`."""
        folder.mkdir()
        with (folder / _LOG).open("wb") as log:
            process = subprocess.Popen(
                _command(target),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        return cls(target, process, folder)

    def wait_until_loaded(self) -> None:
        """Wait until the model is loaded. Raises its loading error, or InferenceFailed."""
        answer = self._answer(_LOAD_TIMEOUT)
        if error := answer.get("error"):
            kind = getattr(errors, _class_name(error["kind"]), errors.ModelLoadFailed)
            raise kind(f"{self.target.name}: {error['message']}", hint=error["hint"])

    def ask(self, image: str) -> None:
        """Start on an image file; `finish` waits for the result."""
        line = json.dumps({"file": str(Path(image).absolute()), "into": str(self.folder)}) + "\n"
        stdin = cast(BinaryIO, self.process.stdin)
        try:
            stdin.write(line.encode())
            stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def finish(self, timeout: float) -> str | None:
        """Return the error kind that refused the image; None if its arrays are in the folder.

        Raises InferenceFailed if the process ended, DeadlineExceeded after `timeout` seconds.
        """
        error = self._answer(timeout).get("error")
        return str(error["kind"]) if error else None

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self, timeout: float) -> dict[str, Any]:
        stdout = cast(BinaryIO, self.process.stdout)
        doing = f"running the stages of {self.target.name}"
        line = run_within(Deadline.after(timeout), doing, stdout.readline)
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> MlserveError:
        code = self.process.wait()
        words = "\n".join(last_lines(self.folder / _LOG, _LAST_WORDS))
        return InferenceFailed(
            f"the process that runs the stages of {self.target.name} ended (exit code {code})"
            + (f"; its last words:\n{words}" if words else ""),
            hint="export the model again, or compare it through its endpoint",
        )


def _command(target: ComparedTarget) -> list[str]:
    model, artifact = target.served, cast(Artifact, target.artifact)
    if model is None:
        raise ValueError(f"{target.name} has no files")
    # -P: a user's module in the current folder must not shadow one of the worker's.
    argv = [sys.executable, "-P", "-m", "mlserve.compare.worker", "--backend", model.backend]
    argv += [f"--model={model.model}", "--base-path", str(model.base_path)]
    return [*argv, "--version", str(artifact.version)]


def _class_name(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))


def difference(reference: Array, other: Array) -> Difference:
    """Return the largest and mean absolute difference; infinite for other shapes and NaN."""
    if reference.shape != other.shape:
        return Difference(math.inf, math.inf)
    if reference.size == 0:
        return Difference(0.0, 0.0)
    one, two = reference.reshape(-1), other.reshape(-1)
    largest = total = 0.0
    for start in range(0, one.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        apart = np.abs(one[part].astype(np.float64) - two[part].astype(np.float64))
        if not np.isfinite(apart).all():
            return Difference(math.inf, math.inf)
        largest, total = max(largest, float(apart.max())), total + float(apart.sum())
    return Difference(largest, total / one.size)


def compare_stages(reference: Path, other: Path) -> Stages:
    """Compare the stages that two workers wrote for one image into these folders."""
    pairs = {stage: (_load(reference, stage), _load(other, stage)) for stage in STAGES}
    ours, theirs = (_best(scores) for scores in pairs["scores"])
    return Stages(
        differences=_differences(pairs),
        has_same_top_1=ours[:1] == theirs[:1],
        has_same_order=ours == theirs,
    )


def _differences(pairs: Mapping[str, tuple[Array, Array]]) -> dict[str, Difference]:
    return {stage: difference(*pair) for stage, pair in pairs.items()}


def _load(folder: Path, stage: str) -> Array:
    array: Array = np.load(folder / f"{stage}.npy", mmap_mode="r", allow_pickle=False)
    return array


def _best(scores: Array) -> list[int]:
    """Return the best classes, best first; of equal scores the first class wins."""
    best: list[int] = np.argsort(-scores.reshape(-1), kind="stable")[:_TOP_K].tolist()
    return best
