"""PNG files of every kind, and each way to damage one: chunks, checksums, the stream inside.

A file is a list of chunks here, each its type and content. A damage leaves right checksums behind
unless a wrong one is the damage, as a decoder reads on behind a right one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from mlserve.images import PNG_MAGIC

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The bits a sample may have, by colour type (PNG, section 11.2.2)."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
_LAST_PASS = (0, 1, 1, 2)
"""The passes of an interlaced image: first column, first row, column step, row step."""
_FILTERS = 5
_BESIDE = (
    *(b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"hIST", b"tRNS", b"pHYs", b"sPLT"),
    *(b"tIME", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"oFFs", b"pCAL", b"sCAL", b"acTL", b"fcTL"),
    *(b"fdAT", b"cICP", b"mDCV", b"cLLI", b"abCD", b"abcd"),
)
"""Chunks beside the image: those that decoders know, and two that nobody knows."""


@dataclass
class Chunk:
    """One chunk: `length` and `checksum` are written as given, or else as they should be."""

    kind: bytes
    content: bytes
    length: int | None = None
    checksum: int | None = None

    def written(self) -> bytes:
        """The chunk's bytes."""
        body = self.kind + self.content
        length = len(self.content) if self.length is None else self.length
        checksum = zlib.crc32(body) if self.checksum is None else self.checksum
        return struct.pack(">I", length) + body + struct.pack(">I", checksum)


@dataclass
class Png:
    """A PNG file in the making: its header's fields, the raw rows, and the chunks around."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: int
    rows: bytes
    chunks: list[Chunk]

    def written(self) -> bytes:
        """The file's bytes."""
        return PNG_MAGIC + b"".join(chunk.written() for chunk in self.chunks)

    def places(self, kind: bytes) -> list[int]:
        """Where the chunks of that kind stand."""
        return [place for place, chunk in enumerate(self.chunks) if chunk.kind == kind]

    def fill(self, stream: bytes, rng: Random) -> None:
        """Puts that stream into the IDAT chunks, cut into new pieces."""
        first = self.places(b"IDAT")[0]
        others = [chunk for chunk in self.chunks if chunk.kind != b"IDAT"]
        self.chunks = [*others[:first], *_pieces(stream, rng), *others[first:]]


def whole_png(rng: Random) -> Png:
    """A PNG of any colour type, depth and interlacing, of noise, with a few chunks beside."""
    colour = rng.choice(list(_DEPTHS))
    depth = rng.choice(_DEPTHS[colour])
    width, height, interlaced = rng.randint(1, 40), rng.randint(1, 40), rng.randint(0, 1)
    # Rows that come again, so that the stream refers back to them.
    noise = [rng.randbytes(width * 8) for _ in range(rng.choice((2, 9, 40)))]
    rows = b"".join(
        bytes([rng.randrange(_FILTERS)]) + rng.choice(noise)[:length]
        for length in _row_lengths(width, height, depth * _SAMPLES[colour], interlaced)
    )
    chunks = [Chunk(b"IHDR", _header(width, height, depth, colour, interlaced))]
    if colour == 3 or (colour in (2, 6) and rng.random() < 0.1):
        chunks.append(Chunk(b"PLTE", rng.randbytes(3 * rng.randint(1, 2 ** min(depth, 8)))))
    if colour in (0, 2, 3) and rng.random() < 0.3:
        chunks.append(Chunk(b"tRNS", rng.randbytes({0: 2, 2: 6, 3: 1}[colour])))
    stream = zlib.compress(rows, rng.choice((0, 1, 6, 9)))
    chunks += [*_pieces(stream, rng), Chunk(b"IEND", b"")]
    png = Png(width, height, depth, colour, interlaced, rows, chunks)
    if rng.random() < 0.3:
        chunks.insert(1, _beside(rng))
    return png


def _header(width: int, height: int, depth: int, colour: int, interlaced: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)


def _row_lengths(width: int, height: int, bits: int, interlaced: int) -> list[int]:
    """The bytes of each row in the stream, without its filter."""
    passes = (*_ADAM7, _LAST_PASS) if interlaced else ((0, 0, 1, 1),)
    lengths = []
    for left, top, step_x, step_y in passes:
        columns = (width - left + step_x - 1) // step_x
        if columns > 0:
            lengths += [(columns * bits + 7) // 8] * len(range(top, height, step_y))
    return lengths


def _pieces(stream: bytes, rng: Random) -> list[Chunk]:
    ends = sorted(rng.randint(0, len(stream)) for _ in range(rng.choice((0, 0, 1, 3))))
    starts = [0, *ends]
    return [Chunk(b"IDAT", stream[a:b]) for a, b in zip(starts, [*ends, len(stream)], strict=True)]


def _drop(png: Png, rng: Random) -> None:
    del png.chunks[rng.randrange(len(png.chunks))]


def _swap(png: Png, rng: Random) -> None:
    a, b = (rng.randrange(len(png.chunks)) for _ in range(2))
    png.chunks[a], png.chunks[b] = png.chunks[b], png.chunks[a]


def _repeat(png: Png, rng: Random) -> None:
    chunk = rng.choice(png.chunks)
    png.chunks.insert(rng.randint(0, len(png.chunks)), chunk)


def _flip(png: Png, rng: Random) -> None:
    """A changed bit in the content of a chunk, whose checksum is right."""
    chunk = rng.choice([chunk for chunk in png.chunks if chunk.content])
    chunk.content = _flipped(chunk.content, rng)


def _flip_header(png: Png, rng: Random) -> None:
    chunk = png.chunks[0]
    at = rng.randrange(len(chunk.content))
    value = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 255, chunk.content[at] ^ 1))
    chunk.content = chunk.content[:at] + bytes([value]) + chunk.content[at + 1 :]


def _cut_content(png: Png, rng: Random) -> None:
    """A chunk with less in it than it should have, or more."""
    chunk = rng.choice(png.chunks)
    if rng.random() < 0.7:
        chunk.content = chunk.content[: rng.randint(0, len(chunk.content))]
    else:
        chunk.content += rng.randbytes(rng.randint(1, 20))


def _wrong_length(png: Png, rng: Random) -> None:
    chunk = rng.choice(png.chunks)
    right = len(chunk.content)
    chunk.length = rng.choice((0, 1, right + 1, max(right - 1, 0), right + 12, 2**31, 2**32 - 1))


def _wrong_checksum(png: Png, rng: Random) -> None:
    rng.choice(png.chunks).checksum = rng.getrandbits(32)


def _wrong_kind(png: Png, rng: Random) -> None:
    """A chunk under another name: one that is known, one letter changed, or any four bytes."""
    chunk = rng.choice(png.chunks)
    at = rng.randrange(4)
    flipped = chunk.kind[:at] + bytes([chunk.kind[at] ^ 0x20]) + chunk.kind[at + 1 :]
    names = (rng.choice(_BESIDE), flipped, rng.randbytes(4), rng.choice((b"IHDR", b"PLTE")))
    chunk.kind = rng.choice(names)


def _fewer_rows(png: Png, rng: Random) -> None:
    """A whole stream of fewer bytes than the header announces."""
    png.fill(zlib.compress(png.rows[: rng.randint(0, len(png.rows) - 1)]), rng)


def _more_rows(png: Png, rng: Random) -> None:
    png.fill(zlib.compress(png.rows + rng.randbytes(rng.choice((1, 30, 3000)))), rng)


def _cut_stream(png: Png, rng: Random) -> None:
    stream = zlib.compress(png.rows)
    end = rng.choice((rng.randint(1, 8), rng.randint(1, len(stream))))
    png.fill(stream[:-end], rng)


def _altered_stream(png: Png, rng: Random) -> None:
    stream = zlib.compress(png.rows)
    png.fill(_flipped(stream, rng), rng)


def _wrong_stream_end(png: Png, rng: Random) -> None:
    """A stream whose own checksum is wrong, or that has bytes behind it."""
    stream = zlib.compress(png.rows)
    changed = stream[:-4] + rng.randbytes(4)
    png.fill(rng.choice((changed, stream + rng.randbytes(rng.randint(1, 9)))), rng)


def _wrong_stream_start(png: Png, rng: Random) -> None:
    """Another window than the stream needs, or no zlib at all."""
    level, window = rng.choice((1, 9)), rng.randint(9, 15)
    packer = zlib.compressobj(level, zlib.DEFLATED, rng.choice((window, -window)))
    stream = packer.compress(png.rows) + packer.flush()
    first = rng.randrange(256)
    second = (stream[1] & 0xE0) + 31 - ((first << 8) + (stream[1] & 0xE0)) % 31
    png.fill(rng.choice((stream, bytes([first, second & 255]) + stream[2:])), rng)


def _wrong_filter(png: Png, rng: Random) -> None:
    lengths = _row_lengths(png.width, png.height, png.depth * _SAMPLES[png.colour], png.interlaced)
    row = rng.randrange(len(lengths))
    at = sum(lengths[:row]) + row
    filtered = png.rows[:at] + bytes([rng.randint(5, 255)]) + png.rows[at + 1 :]
    png.fill(zlib.compress(filtered), rng)


def _between_data(png: Png, rng: Random) -> None:
    """A chunk between two IDAT chunks: of a kind that may stand beside them, or not."""
    stream = zlib.compress(png.rows)
    at = rng.randint(0, len(stream))
    png.fill(stream, rng)
    first = png.places(b"IDAT")[0]
    others = [chunk for chunk in png.chunks if chunk.kind != b"IDAT"]
    kind = rng.choice((*_BESIDE, b"PLTE", b"IHDR", b"IEND", b"ABCD"))
    between = Chunk(kind, rng.randbytes(rng.choice((0, 1, 3, 13))))
    parts = [Chunk(b"IDAT", stream[:at]), between, Chunk(b"IDAT", stream[at:])]
    png.chunks = [*others[:first], *parts, *others[first:]]


def _empty_data(png: Png, rng: Random) -> None:
    """IDAT chunks with nothing in them, anywhere."""
    for _ in range(rng.randint(1, 3)):
        png.chunks.insert(rng.randint(1, len(png.chunks)), Chunk(b"IDAT", b""))


def _with_chunk_beside(png: Png, rng: Random) -> None:
    """A chunk beside the image, at any place, mostly with noise in it."""
    png.chunks.insert(rng.randint(0, len(png.chunks)), _beside(rng))


def _beside(rng: Random) -> Chunk:
    length = rng.choice((0, 1, 2, 4, 6, 9, 13, 32, 70))
    return Chunk(rng.choice(_BESIDE), rng.randbytes(length))


def _other_palette(png: Png, rng: Random) -> None:
    content = rng.randbytes(rng.choice((0, 1, 2, 3, 6, 45, 48, 767, 768, 771, 900)))
    places = png.places(b"PLTE")
    if places:
        png.chunks[places[0]].content = content
    else:
        png.chunks.insert(rng.randint(1, len(png.chunks)), Chunk(b"PLTE", content))


def _flipped(data: bytes, rng: Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


PNG_DAMAGES: Mapping[str, Callable[[Png, Random], None]] = {
    "chunk dropped": _drop,
    "chunks swapped": _swap,
    "chunk repeated": _repeat,
    "chunk altered": _flip,
    "header altered": _flip_header,
    "chunk shorter or longer": _cut_content,
    "wrong length": _wrong_length,
    "wrong checksum": _wrong_checksum,
    "wrong kind": _wrong_kind,
    "fewer rows": _fewer_rows,
    "more rows": _more_rows,
    "stream cut": _cut_stream,
    "stream altered": _altered_stream,
    "wrong end of stream": _wrong_stream_end,
    "wrong start of stream": _wrong_stream_start,
    "wrong filter": _wrong_filter,
    "chunk between data": _between_data,
    "empty data": _empty_data,
    "chunk beside": _with_chunk_beside,
    "other palette": _other_palette,
}
"""The damages of a PNG's parts, by what they are called in a table."""
