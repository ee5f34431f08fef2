"""Image files that are small on the wire but expensive to decode, or whose headers lie.

Each is made on demand, so that no bomb is stored. `ATTACKS` lists them by name, for
`benchmarks/soak.py` and the tests. A server must treat all of them alike: answer within the
deadline, with bounded memory, and answer the next good image as before.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping

from mlserve.testing.images import png_chunk

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MIB = 2**20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SIDE = 10_000
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column, first row, column step and row step of each pass of an interlaced PNG."""
_LONGEST_RUN = 2**15 - 1
"""The most blocks skipped by one code in a scan of a progressive JPEG (EOB14)."""


def png_of_zeros(
    width: int, height: int, depth: int = 8, colour: int = 0, *, is_interlaced: bool = False
) -> bytes:
    """Make a PNG of zero samples. An interlaced one has the rows of its seven passes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, is_interlaced)
    bits = depth * _SAMPLES[colour]
    passes = _ADAM7 if is_interlaced else ((0, 0, 1, 1),)
    size = 0
    for left, top, across, down in passes:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            size += rows * ((columns * bits + 7) // 8 + 1)
    palette = png_chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    data = png_chunk(b"IDAT", _packed_zeros(size))
    return _PNG_MAGIC + png_chunk(b"IHDR", header) + palette + data + png_chunk(b"IEND", b"")


def png_of_texts(count: int, size: int) -> bytes:
    """Make a small PNG with `count` texts of that size, which zlib compresses a thousand to one."""
    png, text = png_of_zeros(8, 8), png_chunk(b"zTXt", b"a\0\0" + _packed_zeros(size))
    return png[:33] + text * count + png[33:]


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """Make a grey progressive JPEG of that many scans, all of them valid, each over every block.

    Raises ValueError for fewer than two, and for more than are possible without gaps: one of the
    mean, and 14 of each other coefficient.
    """
    if not 2 <= scans <= 1 + 63 * 14:
        raise ValueError(f"a grey progressive JPEG cannot have {scans} scans")
    blocks = -(-width // 8) * -(-height // 8)
    parts = [
        b"\xff\xd8",
        _segment(0xDB, b"\0" + b"\1" * 64),
        _segment(0xC2, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)),
        _segment(0xC4, b"\x00\1" + bytes(15) + b"\0"),  # the mean: "no difference" is the bit 0
        _segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0"),  # others: EOB14 is the bit 0
        _scan(0, 0, 0, 0),
        _bits("0" * blocks),
    ]
    runs, rest = divmod(blocks, _LONGEST_RUN)
    codes = ("0" + "1" * 14) * runs
    if rest:
        # A run of EOB14 is at least 2**14 long: one that reaches past the last block ends there.
        codes += "0" + format(max(rest, 2**14) - 2**14, "014b")
    data = _bits(codes)
    alone, steps = divmod(scans - 2, 14)
    for coefficient in range(1, alone + 1):
        parts += _steps(coefficient, coefficient, 14, data)
    parts += _steps(alone + 1, 63, steps + 1, data)
    return b"".join(parts) + b"\xff\xd9"


def jpeg_of_grey(width: int, height: int, *, components: int = 1, frame: int = 0xC0) -> bytes:
    """Make a JPEG of one tone; `frame` 0xC2 makes it progressive, with only its first scan."""
    blocks = -(-width // 8) * -(-height // 8)
    kinds = b"".join(struct.pack(">BBB", number + 1, 0x11, 0) for number in range(components))
    parts = b"".join(struct.pack(">BB", number + 1, 0) for number in range(components))
    last = 0 if frame == 0xC2 else 63
    block = "0" if frame == 0xC2 else "00"
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, b"\0" + b"\1" * 64),
            _segment(frame, struct.pack(">BHHB", 8, height, width, components) + kinds),
            _segment(0xC4, b"\x00\1" + bytes(15) + b"\0"),
            _segment(0xC4, b"\x10\1" + bytes(15) + b"\0"),
            _segment(0xDA, bytes([components]) + parts + bytes([0, last, 0])),
            _bits(block * components * blocks),
            b"\xff\xd9",
        )
    )


def _steps(first: int, last: int, steps: int, data: bytes) -> list[bytes]:
    """Return the scans that refine those coefficients bit by bit, each with the same data."""
    parts = []
    for bits in range(steps - 1, -1, -1):
        parts += [_scan(first, last, 0 if bits == steps - 1 else bits + 1, bits), data]
    return parts


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _scan(first: int, last: int, before: int, bits: int) -> bytes:
    return _segment(0xDA, bytes([1, 1, 0, first, last, before << 4 | bits]))


def _bits(text: str) -> bytes:
    """Pack the bits of a scan: pad with ones, add a zero byte after each FF."""
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8) if text else b""
    return data.replace(b"\xff", b"\xff\0")


def _packed_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    piece = bytes(_MIB)
    parts = [packer.compress(piece) for _ in range(size // _MIB)]
    return b"".join((*parts, packer.compress(bytes(size % _MIB)), packer.flush()))


ATTACKS: Mapping[str, Callable[[], bytes]] = {
    "1-bit PNG of one column": lambda: png_of_zeros(1, 99_999_999, 1),
    "1-bit PNG of one row": lambda: png_of_zeros(99_999_999, 1, 1),
    "1-bit PNG of 100 MP": lambda: png_of_zeros(_SIDE, _SIDE, 1),
    "16-bit interlaced PNG of 100 MP": lambda: png_of_zeros(
        _SIDE, _SIDE, 16, 6, is_interlaced=True
    ),
    "palette PNG of 100 MP": lambda: png_of_zeros(_SIDE, _SIDE, 8, 3),
    "progressive JPEG of 400 scans": lambda: jpeg_of_scans(_SIDE, _SIDE, 400),
    "progressive JPEG of 883 scans": lambda: jpeg_of_scans(1000, 1000, 883),
    "progressive CMYK JPEG of 100 MP": lambda: jpeg_of_grey(_SIDE, _SIDE, components=4, frame=0xC2),
    "JPEG of 100 MP": lambda: jpeg_of_grey(_SIDE, _SIDE, components=3),
    "JPEG of FF": lambda: b"\xff\xd8" + b"\xff" * 80_000,
    "JPEG of empty segments": lambda: b"\xff\xd8" + b"\xff\xe0\0\2" * 2_000_000,
    "JPEG of empty scans": lambda: (
        jpeg_of_scans(8, 8, 2)[:-2] + _scan(1, 63, 0, 0) * 100_000 + b"\xff\xd9"
    ),
    "PNG of empty chunks": lambda: png_of_zeros(8, 8)[:33] + png_chunk(b"teXt", b"") * 500_000,
    "PNG of packed texts": lambda: png_of_texts(1000, 7 * _MIB),
    "PNG of 2**31 rows": lambda: png_of_zeros(1, 1)[:16] + struct.pack(">II", 2**31, 2**31),
}
"""Each attack's description, and the function that makes its file."""
