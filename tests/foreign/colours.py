"""What every foreign server of the tests serves: an image classifier by mean colour, and an echo.

Each environment has Pillow and nothing of mlserve, so this stands alone. In the folder that
`MLSERVE_TEST_GATES` names, a model leaves a line in `NAME.entered` each time it is run (or loaded,
where loading waits), waits while there is a file `NAME.closed`, and leaves a line in `NAME.left`.
"""

from __future__ import annotations

import base64
import io
import os
import time
from pathlib import Path

from PIL import Image

MODELS = ("label", "scores", "slow", "broken", "tensors", "loading")
TENSORS = (("d", "FP64"), ("l", "INT64"), ("f", "FP32"), ("b", "BOOL"), ("t", "BYTES"))
"""The inputs of the model `tensors`, which answers with the same: their names and types."""
LABELS = ("red", "green", "blue")
_LONGEST_WAIT = 60.0


def scores(image: bytes | str) -> list[float]:
    """The share of each of LABELS in the mean colour of a JPEG or PNG file; they add up to 1.

    A server without binary data in JSON hands over the base64 text.
    """
    data = base64.b64decode(image, validate=True) if isinstance(image, str) else image
    pixels = Image.open(io.BytesIO(data)).convert("RGB").resize((1, 1), Image.Resampling.BOX)
    mean = pixels.tobytes()
    return [value / (sum(mean) or 1) for value in mean]


def label(image: bytes | str) -> str:
    """The label with the largest share."""
    found = scores(image)
    return LABELS[found.index(max(found))]


def enter(model: str) -> None:
    """Notes that the model was entered, and returns when its gate is open."""
    gates = Path(os.environ["MLSERVE_TEST_GATES"])
    _note(gates / f"{model}.entered")
    give_up = time.monotonic() + _LONGEST_WAIT
    while (gates / f"{model}.closed").exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    _note(gates / f"{model}.left")
    if model == "broken":
        raise LookupError("this model knows no colour")


def _note(path: Path) -> None:
    with path.open("a") as notes:
        notes.write("once\n")
