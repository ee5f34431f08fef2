"""Header blocks that are sent again are not decoded again, unless the table has changed."""

from __future__ import annotations

import hpack

from mlserve.server.listen.grpc import frames
from mlserve.server.listen.grpc.frames import Patience
from mlserve.server.listen.grpc.headers import HeaderReader

CALL = [(b":method", b"POST"), (b":path", b"/a.B/C"), (b"x-own", b"1")]


def read(reader: HeaderReader, block: bytes) -> list[tuple[bytes, bytes]]:
    whole = reader.take(frames.HEADERS, frames.END_HEADERS, 1, block)
    assert whole is not None
    return whole[0]


def a_reader() -> HeaderReader:
    return HeaderReader(Patience(lambda: 0.0))


def test_a_block_that_comes_again_is_decoded_once() -> None:
    encoder, reader = hpack.Encoder(), a_reader()
    blocks = [encoder.encode(CALL) for _ in range(3)]
    first, second, third = (read(reader, block) for block in blocks)
    assert first == second == CALL
    assert third is second


def test_the_same_bytes_mean_something_else_after_the_table_has_changed() -> None:
    encoder, reader, usual = hpack.Encoder(), a_reader(), hpack.Decoder()
    first, again = encoder.encode(CALL), encoder.encode(CALL)
    other = encoder.encode([(b"x-other", b"2")])
    smaller = b"\x3f\x19"  # a table of 56 bytes, which drops what was added before
    blocks = [first, again, again, other, again, again, other, other, first, again]
    expected = [usual.decode(block, raw=True) for block in blocks]
    assert [read(reader, block) for block in blocks] == expected
    assert expected[4] != expected[1]
    assert read(reader, smaller + other) == usual.decode(smaller + other, raw=True)
    assert read(reader, b"\xbe") == usual.decode(b"\xbe", raw=True) == [(b"x-other", b"2")]
