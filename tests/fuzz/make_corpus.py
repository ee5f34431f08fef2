"""Writes tests/fuzz/corpus: tiny images of noise, one for each way through the decoders.

They are made here from nothing but a seed, so they belong to nobody.

    python tests/fuzz/make_corpus.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mlserve.testing.images import noise, png_of, saved

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Writes each file anew."""
    CORPUS.mkdir(exist_ok=True)
    photo = noise(17, 13)
    files = {
        "baseline.jpg": saved(photo, quality=30),
        "progressive.jpg": saved(photo, progressive=True, quality=30),
        "grey.jpg": saved(photo.convert("L"), quality=30),
        "cmyk.jpg": saved(photo.convert("CMYK"), quality=30),
        "restarts.jpg": saved(photo, quality=30, restart_marker_blocks=1),
        "rgb.png": saved(photo, "PNG"),
        "palette.png": saved(photo.quantize(16), "PNG", transparency=3),
        "alpha.png": saved(photo.convert("RGBA"), "PNG"),
        "grey16.png": saved(Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12)), "PNG"),
        "interlaced.png": png_of(np.asarray(noise(9, 7)), is_interlaced=True),
    }
    for name, data in files.items():
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
