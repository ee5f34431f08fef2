"""What every server of the comparison does with a request: a JPEG in, its label and score out.

The pixels come from mlserve's own image pipeline, used as a library, and the model runs in ONNX
Runtime with the settings that its users would choose, so all servers do equal work and give equal
answers. MODEL_FOLDER is what `mlserve export --backend onnxruntime` wrote (MODEL/VERSION), THREADS
the number of threads of a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Classify = Callable[[bytes], tuple[str, float]]
"""Returns the label and the score of an image file."""
HALF_A_SECOND = 0.5


def load() -> Classify:
    """Return the work of this server: the model's, or without MODEL_FOLDER half a second of sleep.

    The sleep is for `abandoned.py`, which counts how often a server works for nobody.
    """
    folder = os.environ.get("MODEL_FOLDER")
    if folder is None:
        return _sleep
    from classifier import Model

    return Model(Path(folder), int(os.environ["THREADS"])).classify


def _sleep(_: bytes) -> tuple[str, float]:
    """Log in the file named by JOURNAL that a run has begun, take half a second, and answer."""
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write("run\n")
    time.sleep(HALF_A_SECOND)
    return "sorrel", 1.0


def answer(label: str, score: float) -> dict[str, Any]:
    """Return the JSON of an answer."""
    return {"label": label, "score": score}
