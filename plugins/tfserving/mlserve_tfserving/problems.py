"""What can be wrong with one image of a request: the words, and the error that each becomes.

The graph writes these words into the message of a failed check, so that any server that runs the
SavedModel says them; the runner reads them back to choose the error.
"""

from __future__ import annotations

import re
from enum import Enum

from mlserve.errors import InputTooLarge, InvalidInput, NotAnImage


class Problem(Enum):
    """One thing that can be wrong: its text and error; its position is its code in the graph."""

    NONE = ("fine", InvalidInput)
    EMPTY = ("empty: no bytes at all", NotAnImage)
    NOT_AN_IMAGE = (
        "not a JPEG or PNG file, nor base64 text of one (GIF, BMP, WebP and TIFF are not taken)",
        NotAnImage,
    )
    BAD_BASE64 = ("base64 text of an image with a wrong character or length", InvalidInput)
    NO_SIZE = ("damaged: its header has no valid size", NotAnImage)
    TOO_LARGE = ("too large", InputTooLarge)
    DAMAGED = ("damaged: cut short or altered, so that it cannot be decoded", NotAnImage)

    def __init__(self, text: str, error: type[InvalidInput]) -> None:
        self.text = text
        self.error = error

    @property
    def code(self) -> int:
        return list(Problem).index(self)


_IN_GRAPH = re.compile(r"assertion failed: \[image (\d+): ([^\]]+)\]")


def found_in_graph(message: str) -> tuple[int, str] | None:
    """The index of the refused image and what is wrong with it, from TensorFlow's message."""
    match = _IN_GRAPH.search(message)
    return None if match is None else (int(match[1]), match[2])


def problem_error(index: int, batch: int, text: str) -> InvalidInput:
    """The error for image `index` of a batch of that size; a batch of one has no index to say."""
    kind = next((p for p in Problem if text.startswith(p.text)), Problem.DAMAGED)
    what = "the image" if batch == 1 else f"image {index} of {batch}"
    return kind.error(f"{what} is {text}", hint=_HINTS.get(kind, _SEND))


_SEND = "send the bytes of a JPEG or PNG file, or their base64 text"
_HINTS = {
    Problem.TOO_LARGE: "make the image smaller before it is sent",
    Problem.DAMAGED: "open the file in an image viewer: it was cut short or altered",
    Problem.NO_SIZE: "open the file in an image viewer: it was cut short or altered",
}
