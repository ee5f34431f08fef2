"""`python -m mlserve.compare.worker`: run one exported model's stages in its own process.

Two runtimes must not share a process. Standard input has one JSON object a line, `{"file": path,
"into": folder}`; the answer is one line: `{}` once each stage's array is in `<into>/<stage>.npy`,
or `{"error": {"kind", "message", "hint"}}`. A first line, without a request, says that the model is
loaded. Started by `mlserve compare`, not by users.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np  # noqa: TID253

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import ImageStages
from mlserve.compare.result import STAGES
from mlserve.errors import MlserveError
from mlserve.load_options import LoadOptions


def main() -> None:
    """Load the model, then answer until standard input ends."""
    answers = _private_stdout()
    parser = argparse.ArgumentParser(prog="python -m mlserve.compare.worker", allow_abbrev=False)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--base-path", required=True, type=Path, help="holds <version>/ folders")
    parser.add_argument("--version", required=True, type=int)
    asked = parser.parse_args()
    try:
        artifact = Artifact.open(asked.base_path, asked.model, asked.version)
        stages = plugins.backend(asked.backend).stages(artifact, LoadOptions())
    except MlserveError as error:
        _answer(answers, _failed(error))
        return
    _answer(answers, {})
    for line in sys.stdin:
        _answer(answers, _run(stages, **json.loads(line)))


def _run(stages: ImageStages, file: str, into: str) -> dict[str, Any]:
    try:
        image = Path(file).read_bytes()
        for stage in STAGES:
            array = getattr(stages, stage)(image)
            np.save(Path(into) / f"{stage}.npy", array, allow_pickle=False)
    except MlserveError as error:
        return _failed(error)
    return {}


def _failed(error: MlserveError) -> dict[str, Any]:
    return {"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}


def _private_stdout() -> TextIO:
    """Return standard output, reserved for answers: a runtime's prints go to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w")


def _answer(answers: TextIO, data: dict[str, Any]) -> None:
    answers.write(json.dumps(data) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
