"""How much is tried, and what the tries are made of.

MLSERVE_FUZZ_EXAMPLES=20000 tries that many of each, by chance; else a few hundred, always the same.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_EXAMPLES = os.environ.get("MLSERVE_FUZZ_EXAMPLES")
settings.register_profile(
    "fuzz",
    max_examples=int(_EXAMPLES or 300),
    derandomize=_EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "fuzz-sockets", settings.get_profile("fuzz"), max_examples=int(_EXAMPLES or 600) // 10
)

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
_SIZES = st.sampled_from((0, 1, 2, 3, 4, 8, 16, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1))
_FORMATS = st.sampled_from((">B", ">H", ">I", "<H", "<I"))
Change = Callable[[bytes], bytes]


def _place(data: bytes, at: float) -> int:
    return int(at * len(data))


def _cut(at: float) -> Change:
    return lambda data: data[: _place(data, at)]


def _flip(at: float, bits: int) -> Change:
    def change(data: bytes) -> bytes:
        here = min(_place(data, at), len(data) - 1)
        return data[:here] + bytes([data[here] ^ bits]) + data[here + 1 :] if data else data

    return change


def _remove(at: float, count: int) -> Change:
    return lambda data: data[: _place(data, at)] + data[_place(data, at) + count :]


def _insert(at: float, piece: bytes) -> Change:
    return lambda data: data[: _place(data, at)] + piece + data[_place(data, at) :]


def _number(at: float, form: str, value: int) -> Change:
    piece = struct.pack(form, value % 256 ** struct.calcsize(form))
    return lambda data: data[: _place(data, at)] + piece + data[_place(data, at) + len(piece) :]


def _repeat(at: float, count: int) -> Change:
    def change(data: bytes) -> bytes:
        here = _place(data, at)
        return data[:here] + data[here : here + count] + data[here:]

    return change


def _changes() -> st.SearchStrategy[Change]:
    # Half of the places lie in the head, where a file says what it is.
    at = st.floats(0, 0.999) | st.floats(0, 0.1)
    count = st.integers(1, 64)
    return st.one_of(
        st.builds(_cut, at),
        st.builds(_flip, at, st.integers(1, 255)),
        st.builds(_remove, at, count),
        st.builds(_insert, at, st.binary(min_size=1, max_size=16)),
        st.builds(_number, at, _FORMATS, _SIZES),
        st.builds(_repeat, at, count),
    )


def _apply(data: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        data = change(data)
    return data


def mutated(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the originals with some changes, or the head of one with the tail of another."""
    one = st.sampled_from(originals)
    spliced = st.builds(
        lambda a, b, at, to: a[: _place(a, at)] + b[_place(b, to) :],
        one,
        one,
        st.floats(0, 1),
        st.floats(0, 1),
    )
    return st.builds(_apply, one | spliced, st.lists(_changes(), max_size=4))


def with_checksums(png: bytes) -> bytes:
    """The PNG with the checksum of each chunk made right, so that a decoder reads on."""
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        end = at + 8 + length
        if end + 4 > len(png):
            break
        body = png[at + 4 : end]
        parts.append(png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at = end + 4
    return b"".join(parts) + png[at:]


@pytest.fixture(scope="session")
def images() -> st.SearchStrategy[bytes]:
    """Files that are nearly images; of the PNG ones many have right checksums."""
    files = mutated([path.read_bytes() for path in CORPUS])
    return files | files.map(with_checksums)


@pytest.fixture(scope="session")
def mutations() -> Callable[[list[bytes]], st.SearchStrategy[bytes]]:
    return mutated


@pytest.fixture(scope="session")
def corpus() -> list[bytes]:
    """The files of the corpus as they are."""
    return [path.read_bytes() for path in CORPUS]
