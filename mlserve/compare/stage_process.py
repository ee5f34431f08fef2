"""A worker process that runs the stages of one exported model, seen from the comparing process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from mlserve import errors
from mlserve.artifact import Artifact
from mlserve.compare.targets import Target
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, MlserveError
from mlserve.launch.logs import last_lines
from mlserve.system import run_within

_LOAD_TIMEOUT = 120.0
_LAST_WORDS = 10  # lines
_LOG = "log"


@dataclass(frozen=True, slots=True)
class StageProcess:
    """The process, and the folder that it writes its arrays into."""

    target: Target
    process: subprocess.Popen[bytes]
    folder: Path

    @classmethod
    def start(cls, target: Target, folder: Path) -> StageProcess:
        """Starts the process for an exported model; `folder` is made."""
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
        """Returns once the model is loaded. Raises what loading raised, or InferenceFailed."""
        answer = self._answer(_LOAD_TIMEOUT)
        if error := answer.get("error"):
            kind = getattr(errors, _class_name(error["kind"]), errors.ModelLoadFailed)
            raise kind(f"{self.target.name}: {error['message']}", hint=error["hint"])

    def ask(self, image: str) -> None:
        """Begins with an image file; `finish` waits for its end."""
        line = json.dumps({"file": str(Path(image).absolute()), "into": str(self.folder)}) + "\n"
        stdin = cast(BinaryIO, self.process.stdin)
        try:
            stdin.write(line.encode())
            stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def finish(self, timeout: float) -> str | None:
        """The kind of error that refused the image; None when its arrays are in the folder.

        Raises InferenceFailed when the process ended, DeadlineExceeded after `timeout` seconds.
        """
        error = self._answer(timeout).get("error")
        return str(error["kind"]) if error else None

    def close(self) -> None:
        """Ends the process."""
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
            hint="export the model again, or compare it by its endpoint",
        )


def _command(target: Target) -> list[str]:
    serving, artifact = target.serving, cast(Artifact, target.artifact)
    if serving is None:
        raise ValueError(f"{target.name} has no files")
    # -P: a module of the user's in the current folder must not stand in for one of the worker's.
    argv = [sys.executable, "-P", "-m", "mlserve.compare.worker", "--backend", serving.backend]
    argv += [f"--model={serving.model}", "--base-path", str(serving.base_path)]
    return [*argv, "--version", str(artifact.version)]


def _class_name(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))
