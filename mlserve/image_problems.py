"""What can be wrong with one image of a request: the words, and the error that each becomes.

Every backend says the same of the same file: one builds its checks from this table into a graph,
another runs them in Python.
"""

from __future__ import annotations

from enum import Enum

from mlserve.errors import InputTooLarge, InvalidInput, NotAnImage

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 24
"""Signature (8), chunk length (4), `IHDR` (4), width (4), height (4); numbers are big-endian."""
PNG_START = PNG_MAGIC + b"\0\0\0\x0dIHDR"
"""What a PNG begins with: its header is 13 bytes long and stands in front of all."""
PNG_OF_APPLE = PNG_MAGIC + b"\0\0\0\x04CgBI"
"""What the PNG files in an iPhone's applications begin with.

Their pixels are stored in another way; no common decoder reads them.
"""
BASE64_OF_IMAGE = r"(?s)\s*([/_]9j[/_]|iVBORw0KGgo).*"
"""What base64 text of a JPEG or PNG looks like, in the syntax that Python's re and RE2 share."""


class Problem(Enum):
    """One thing that can be wrong: its text and error; `code` is its position."""

    NONE = ("fine", InvalidInput)
    EMPTY = ("empty: no bytes at all", NotAnImage)
    NOT_AN_IMAGE = (
        "not a JPEG or PNG file, nor base64 text of one (GIF, BMP, WebP and TIFF are not taken)",
        NotAnImage,
    )
    BAD_BASE64 = ("base64 text of an image with a wrong character or length", InvalidInput)
    OF_APPLE = ("not a PNG that can be read: CgBI (Apple's own variant)", NotAnImage)
    NO_SIZE = ("damaged: its header has no valid size", NotAnImage)
    TOO_LARGE = ("too large", InputTooLarge)
    DAMAGED = ("damaged: cut short or altered, so that it cannot be decoded", NotAnImage)
    TOO_COSTLY = ("too costly to decode", InputTooLarge)

    def __init__(self, text: str, error: type[InvalidInput]) -> None:
        self.text = text
        self.error = error

    @property
    def code(self) -> int:
        return list(Problem).index(self)


def problem_error(index: int, batch: int, text: str) -> InvalidInput:
    """The error for image `index` of a batch of that size; a batch of one has no index to say.

    `text` is that of a Problem, with more said behind it or not.
    """
    kind = next((p for p in Problem if text.startswith(p.text)), Problem.DAMAGED)
    what = "the image" if batch == 1 else f"image {index} of {batch}"
    return kind.error(f"{what} is {text}", hint=_HINTS.get(kind, _SEND))


_SEND = "send the bytes of a JPEG or PNG file, or their base64 text"
_HINTS = {
    Problem.TOO_LARGE: "make the image smaller before it is sent",
    Problem.TOO_COSTLY: "save it again with an image viewer, as a JPEG that is not progressive",
    Problem.OF_APPLE: "save it as a plain PNG first: open and export it on a Mac, or "
    "`xcrun pngcrush -revert-iphone-optimizations IN.png OUT.png`",
    Problem.DAMAGED: "open the file in an image viewer: it was cut short or altered",
    Problem.NO_SIZE: "open the file in an image viewer: it was cut short or altered",
}
