"""Thumbnails of images, embedded in the page, as the servers decode them; or what is wrong.

Needs the extra `images`; without it there are none, and the page says so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve.deadline import Deadline
from mlserve.distributions import CORE, absent_packages, install_command
from mlserve.errors import DeadlineExceeded
from mlserve.images import ImageLimits, Problem
from mlserve.pipeline import Exif
from mlserve.report.page import Markup

if TYPE_CHECKING:
    from mlserve.image_pipeline.codec import Refused

_EXTRA = "images"
_SIDE = 160
"""The longest side in pixels: twice that of the place, for screens with fine pixels."""
_QUALITY = 75
_SECONDS = 20.0
"""What all thumbnails of a page may take: an image of 100 megapixels takes about one."""
_WORDS = {
    Problem.EMPTY: "empty file",
    Problem.NOT_AN_IMAGE: "not an image",
    Problem.BAD_BASE64: "not an image",
    Problem.OF_APPLE: "Apple's own PNG",
    Problem.TOO_LARGE: "too large",
    Problem.TOO_COSTLY: "too large",
}
_DAMAGED = "damaged"


def why_none() -> str:
    """Return why there can be no thumbnails here; empty if there can."""
    absent = absent_packages(CORE, _EXTRA)
    if not absent:
        return ""
    return (
        f"There are no thumbnails: {', '.join(absent)} is not installed "
        f"({install_command(f'{CORE}[{_EXTRA}]')})."
    )


def thumbnails(files: Sequence[str], exif: Exif = Exif.IGNORE) -> dict[str, Markup]:
    """Return a small picture of each image file, or a box that says what is wrong with it.

    `exif` says whether they are turned upright. Empty without the extra `images`.
    """
    if why_none():
        return {}
    deadline = Deadline.after(_SECONDS)
    return {file: _thumbnail(file, exif, deadline) for file in files}


def _thumbnail(file: str, exif: Exif, deadline: Deadline) -> Markup:
    from mlserve.image_pipeline.codec import Refused

    try:
        data = _small(Path(file).read_bytes(), exif, deadline)
    except OSError:
        return _box("cannot be read")
    except Refused as refused:
        return _box(_words(refused))
    except DeadlineExceeded:
        return _box("not drawn: it takes too long")
    text = base64.b64encode(data).decode("ascii")
    return Markup(f'<span class="photo"><img alt="" src="data:image/jpeg;base64,{text}"></span>')


def _small(image: bytes, exif: Exif, deadline: Deadline) -> bytes:
    """Return a JPEG of the image. Raises Refused and DeadlineExceeded as the decoder does."""
    from PIL import Image

    from mlserve.image_pipeline.image_file import decoded_image

    deadline.require("drawing thumbnails")
    pixels = decoded_image(image, ImageLimits(), exif, deadline)
    # Few of a large photo's pixels are looked at: the means of all of them would take a second.
    step = max(1, min(pixels.shape[:2]) // (4 * _SIDE))
    small = Image.fromarray(pixels[::step, ::step].copy())
    small.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=_QUALITY)
    return written.getvalue()


def _words(refused: Refused) -> str:
    kind = next((kind for kind in Problem if refused.text.startswith(kind.text)), None)
    return _DAMAGED if kind is None else _WORDS.get(kind, _DAMAGED)


def _box(text: str) -> Markup:
    return Markup(f'<span class="photo broken">{escape(text)}</span>')
