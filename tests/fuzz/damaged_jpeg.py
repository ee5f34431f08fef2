"""JPEG files of every kind, and each way to damage one: segments, markers, the coded data.

A file is a list of segments here. The coded data behind a scan's header belong to its segment.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from mlserve.testing.images import noise, saved, turned, without_segment, ycck

_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD
_NEXT_SEGMENT = re.compile(rb"\xff[\x01-\xcf\xd8-\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MARKERS = (*range(0xC0, 0xD0), 0xD0, 0xD7, *range(0xD8, 0xF0), 0xFE, 0x01)
_ORIGINALS = 36


@dataclass
class Segment:
    """One segment: `length` is written as given, or else as it should be; None for a bare one.

    `data` is what stands behind it up to the next segment: the coded data of a scan.
    """

    marker: int
    content: bytes | None
    data: bytes = b""
    length: int | None = None

    def written(self) -> bytes:
        """The segment's bytes."""
        start = bytes([0xFF, self.marker])
        if self.content is None:
            return start + self.data
        length = len(self.content) + 2 if self.length is None else self.length
        return start + struct.pack(">H", length % 2**16) + self.content + self.data


def whole_jpeg(rng: Random) -> list[Segment]:
    """A JPEG of noise: any coding and colours, with restarts or without."""
    return segments(_original(rng.randrange(_ORIGINALS)))


def written(parts: list[Segment]) -> bytes:
    """The file's bytes."""
    return b"".join(part.written() for part in parts)


def segments(jpeg: bytes) -> list[Segment]:
    """The segments of a whole file."""
    found, at = [], 0
    while at < len(jpeg):
        marker = jpeg[at + 1]
        if marker in (_SOI, _EOI):
            found.append(Segment(marker, None))
            at += 2
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        following = _NEXT_SEGMENT.search(jpeg, end) if marker == _SOS else None
        stop = following.start() if following else end
        found.append(Segment(marker, jpeg[at + 4 : end], jpeg[end:stop]))
        at = stop
    return found


@cache
def _original(number: int) -> bytes:
    rng = Random(number)
    bands = (3, 3, 1, 4)[number % 4]
    picture = noise(rng.randint(1, 70), rng.randint(1, 50), bands, seed=number)
    options: dict[str, Any] = {
        "quality": rng.choice((10, 30, 75, 95, 100)),
        "progressive": number % 3 == 0,
        "optimize": rng.random() < 0.5,
        "subsampling": rng.choice((0, 1, 2)),
        "restart_marker_blocks": rng.choice((0, 0, 1, 2, 5)),
    }
    if rng.random() < 0.4:
        options["exif"] = turned(rng.randint(1, 8))
    if rng.random() < 0.3:
        options["comment"] = b"a comment"
    if bands == 3 and rng.random() < 0.2:
        options |= {"keep_rgb": True, "subsampling": 0}
    jpeg = saved(picture, **options)
    if bands == 4:
        return rng.choice((jpeg, ycck(jpeg), without_segment(jpeg, 0xEE)))
    return jpeg


def _any_content(parts: list[Segment], rng: Random) -> Segment:
    return rng.choice([part for part in parts if part.content])


def _drop(parts: list[Segment], rng: Random) -> None:
    del parts[rng.randrange(len(parts))]


def _swap(parts: list[Segment], rng: Random) -> None:
    a, b = (rng.randrange(len(parts)) for _ in range(2))
    parts[a], parts[b] = parts[b], parts[a]


def _repeat(parts: list[Segment], rng: Random) -> None:
    parts.insert(rng.randint(0, len(parts)), rng.choice(parts))


def _alter(parts: list[Segment], rng: Random) -> None:
    part = _any_content(parts, rng)
    part.content = _changed(part.content or b"", rng)


def _cut_content(parts: list[Segment], rng: Random) -> None:
    part = _any_content(parts, rng)
    content = part.content or b""
    shorter = content[: rng.randint(0, len(content))]
    part.content = shorter if rng.random() < 0.7 else content + rng.randbytes(rng.randint(1, 20))


def _wrong_length(parts: list[Segment], rng: Random) -> None:
    part = _any_content(parts, rng)
    right = len(part.content or b"") + 2
    part.length = rng.choice((0, 1, 2, right + 1, right - 1, right + 40, 2**16 - 1))


def _wrong_marker(parts: list[Segment], rng: Random) -> None:
    rng.choice(parts).marker = rng.choice(_MARKERS)


def _frame(parts: list[Segment], rng: Random) -> None:
    """Another size, precision, number of components or sampling in the frame's header."""
    frames = [part for part in parts if part.marker in (0xC0, 0xC1, 0xC2)]
    content = bytearray(rng.choice(frames).content or b"")
    at = rng.randrange(len(content))
    content[at] = rng.choice((0, 1, 2, 3, 4, 8, 12, 0x11, 0x21, 0x22, 0x41, content[at] ^ 1))
    frames[0].content = bytes(content)


def _scan_header(parts: list[Segment], rng: Random) -> None:
    part = rng.choice([part for part in parts if part.marker == _SOS])
    part.content = _changed(part.content or b"", rng)


def _data(parts: list[Segment], rng: Random) -> None:
    """One to three bytes of the coded data changed, now and then to the start of a marker."""
    part = rng.choice([part for part in parts if part.data])
    for _ in range(rng.randint(1, 3)):
        part.data = _changed(part.data, rng)


def _data_cut(parts: list[Segment], rng: Random) -> None:
    """Coded data that end early, with all that follows still there."""
    part = rng.choice([part for part in parts if part.data])
    part.data = part.data[: rng.randint(0, len(part.data))]


def _data_lost(parts: list[Segment], rng: Random) -> None:
    part = rng.choice([part for part in parts if part.data])
    at = rng.randint(0, len(part.data))
    part.data = part.data[:at] + part.data[at + rng.randint(1, 60) :]


def _data_added(parts: list[Segment], rng: Random) -> None:
    part = rng.choice([part for part in parts if part.data])
    at = rng.randint(0, len(part.data))
    added = rng.choice((bytes(rng.randint(1, 20)), rng.randbytes(5), b"\xff" * rng.randint(1, 9)))
    part.data = part.data[:at] + added + part.data[at:]


def _marker_in_data(parts: list[Segment], rng: Random) -> None:
    part = rng.choice([part for part in parts if part.data])
    at = rng.randint(0, len(part.data))
    part.data = part.data[:at] + bytes([0xFF, rng.choice(_MARKERS)]) + part.data[at:]


def _restarts(parts: list[Segment], rng: Random) -> None:
    """Restart markers lost, renumbered, or announced in another distance."""
    part = rng.choice([part for part in parts if part.data])
    marks = list(_RESTART.finditer(part.data))
    if not marks or rng.random() < 0.3:
        parts.insert(1, Segment(_DRI, struct.pack(">H", rng.choice((0, 1, 3, 1000)))))
        return
    mark = rng.choice(marks)
    other = rng.choice((b"", bytes([0xFF, rng.randint(0xD0, 0xD7)])))
    part.data = part.data[: mark.start()] + other + part.data[mark.end() :]


def _between(parts: list[Segment], rng: Random) -> None:
    """Something between two segments that is none, or fill bytes."""
    part = rng.choice(parts)
    part.data += rng.choice((rng.randbytes(rng.randint(1, 9)), bytes(3), b"\xff" * 5))


def _segment_beside(parts: list[Segment], rng: Random) -> None:
    """An application's segment or a comment more, at any place, with noise in it."""
    names = rng.choice((b"JFIF\0", b"Exif\0\0", b"Adobe\0", b"ICC_PROFILE\0", b""))
    content = names + rng.randbytes(rng.choice((0, 1, 7, 12, 40)))
    marker = rng.choice((*range(0xE0, 0xF0), 0xFE))
    parts.insert(rng.randint(0, len(parts)), Segment(marker, content))


def _changed(data: bytes, rng: Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    value = rng.choice((0xFF, 0, rng.randrange(256), data[at] ^ (1 << rng.randrange(8))))
    return data[:at] + bytes([value]) + data[at + 1 :]


JPEG_DAMAGES: Mapping[str, Callable[[list[Segment], Random], None]] = {
    "segment dropped": _drop,
    "segments swapped": _swap,
    "segment repeated": _repeat,
    "segment altered": _alter,
    "segment shorter or longer": _cut_content,
    "wrong length": _wrong_length,
    "wrong marker": _wrong_marker,
    "frame altered": _frame,
    "scan header altered": _scan_header,
    "data altered": _data,
    "data end early": _data_cut,
    "data lost": _data_lost,
    "data added": _data_added,
    "marker in data": _marker_in_data,
    "restarts altered": _restarts,
    "bytes between segments": _between,
    "segment beside": _segment_beside,
}
"""The damages of a JPEG's parts, by what they are called in a table."""
