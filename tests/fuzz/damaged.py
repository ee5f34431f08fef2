"""Damaged image files, as many as are wanted, always the same ones: to compare two decoders on.

Each file is made from the seed and its number alone, so that one that was found can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from tests.fuzz.damaged_jpeg import JPEG_DAMAGES, whole_jpeg, written
from tests.fuzz.damaged_png import PNG_DAMAGES, whole_png

Make = Callable[[Random], bytes]


@dataclass(frozen=True)
class DamagedFile:
    """A file, and what was done to it. Some damages leave a file that is still whole."""

    number: int
    damage: str
    data: bytes


def damaged_files(count: int, seed: int = 0) -> Iterator[DamagedFile]:
    """`count` files, each kind of damage as often as any other."""
    kinds = list(_MAKERS.items())
    for number in range(count):
        damage, make = kinds[number % len(kinds)]
        yield DamagedFile(number, damage, make(Random(f"{seed}:{number}")))


def _png(damage: Callable[..., None]) -> Make:
    def make(rng: Random) -> bytes:
        png = whole_png(rng)
        damage(png, rng)
        return png.written()

    return make


def _jpeg(damage: Callable[..., None]) -> Make:
    def make(rng: Random) -> bytes:
        parts = whole_jpeg(rng)
        damage(parts, rng)
        return written(parts)

    return make


def _whole(rng: Random) -> bytes:
    return rng.choice((lambda: whole_png(rng).written(), lambda: written(whole_jpeg(rng))))()


def _cut(rng: Random) -> bytes:
    data = _whole(rng)
    end = rng.choice((rng.randint(1, 16), rng.randint(1, len(data))))
    return data[:-end]


def _altered(rng: Random) -> bytes:
    data = bytearray(_whole(rng))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(3, len(data))
        data[at] = rng.choice((0xFF, rng.randrange(256), data[at] ^ (1 << rng.randrange(8))))
    return bytes(data)


def _moved(rng: Random) -> bytes:
    """A piece lost, or put in a second time."""
    data = _whole(rng)
    at, length = rng.randrange(3, len(data)), rng.randint(1, 64)
    return data[:at] + (data[at + length :] if rng.random() < 0.5 else data[at - length :])


def _spliced(rng: Random) -> bytes:
    """The head of one file with the tail of another."""
    head, tail = _whole(rng), _whole(rng)
    return head[: rng.randint(8, len(head))] + tail[rng.randint(0, len(tail)) :]


def _followed(rng: Random) -> bytes:
    """Something behind the end of the file: noise, or another file."""
    return _whole(rng) + rng.choice((rng.randbytes(rng.randint(1, 40)), _whole(rng)))


def _twice(rng: Random) -> bytes:
    """Two damages of one file's parts."""
    if rng.random() < 0.5:
        png = whole_png(rng)
        PNG_DAMAGES[rng.choice(_OF_STREAM)](png, rng)
        PNG_DAMAGES[rng.choice(_OF_CHUNKS)](png, rng)
        return png.written()
    parts = whole_jpeg(rng)
    for damage in rng.choices(_OF_SEGMENTS, k=2):
        JPEG_DAMAGES[damage](parts, rng)
    return written(parts)


_OF_STREAM = ("fewer rows", "more rows", "stream cut", "wrong end of stream", "chunk between data")
_OF_CHUNKS = ("chunk dropped", "chunks swapped", "chunk repeated", "empty data", "chunk beside")
_OF_SEGMENTS = ("data altered", "data added", "bytes between segments", "wrong length")
_MAKERS: Mapping[str, Make] = {
    "nothing": _whole,
    "file cut": _cut,
    "file altered": _altered,
    "piece lost or doubled": _moved,
    "two files joined": _spliced,
    "something behind the end": _followed,
    "two damages": _twice,
    **{f"PNG, {name}": _png(damage) for name, damage in PNG_DAMAGES.items()},
    **{f"JPEG, {name}": _jpeg(damage) for name, damage in JPEG_DAMAGES.items()},
}
