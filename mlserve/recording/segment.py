"""One file of a recording: a line of JSON about it, then blocks of requests.

    {"mlserve_recording": 1, "process": ..., "began": ...}
    block: magic, length, CRC-32, requests in it | entries

A block is written in one piece and has a checksum, so that it is read whole or not at all. Its
entries begin with a tag: a kind, with the number by which the requests of this file name it; a
request; or a request with its bytes. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Self

from mlserve.errors import InvalidInput, UsageError
from mlserve.recording.records import (
    CONTENT_HEADERS,
    Kind,
    OpenFile,
    RecordedRequest,
    SampledBytes,
    StoredBytes,
)

FORMAT = 1
_KEY = "mlserve_recording"
_BLOCK = struct.Struct("<4sIII")
BLOCK_HEAD = _BLOCK.size
"""How many bytes a block has besides its entries."""
_MAGIC = b"mlrb"
_TAG_KIND, _TAG_REQUEST, _TAG_SAMPLED = 1, 2, 3
_KIND = struct.Struct("<BIH")
_REQUEST = struct.Struct("<BIdffffffQ")
_pack, REQUEST_SIZE = _REQUEST.pack, _REQUEST.size
"""How to write a request without its kind and its bytes, and how many bytes that takes."""
_SAMPLED = struct.Struct("<HIHI32s")
_NO_ANSWER = 2**32 - 1
"""The length of an answer that was not kept."""
_NO_DIGEST = bytes(32)
_LONGEST_HEADER = 2**16
_LARGEST_BLOCK = 2**26
"""More bytes than a block ever has: a length above it is no length."""
_LATEST = 1e10
"""Seconds: a Unix time, or a time of a request, above it is none."""
_BAD_IN_HEADERS = re.compile(r"[\0-\x08\n-\x1f\x7f\ud800-\udfff]")
_UNREADABLE = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, struct.error)
_DIGITS = 20


class NewerFormat(UsageError):
    """The recording is of a later mlserve, in a format that this one does not read."""


class NotASegment(InvalidInput):
    """The file is not one of a recording."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first line of a file: who wrote it, and when.

    `process` names the server's process, `number` counts its files from 1. `began` is the Unix time
    from which the times of its requests count, by a clock that nobody sets; `wall` was the wall
    clock when it showed `offset` seconds. `share` of the requests have their bytes kept.
    """

    process: str
    number: int
    began: float
    wall: float
    offset: float
    host: str = ""
    pid: int = 0
    share: float = 0.0
    mlserve: str = ""

    def to_bytes(self) -> bytes:
        """Return the line."""
        return json.dumps({_KEY: FORMAT, **asdict(self)}).encode() + b"\n"

    @classmethod
    def read(cls, file: IO[bytes], name: str) -> Self | None:
        """Read the line at the beginning of a file; None for a file that ends within it.

        Raises NewerFormat and NotASegment, naming the file, and OSError.
        """
        line = file.readline(_LONGEST_HEADER)
        if not line.endswith(b"\n") and len(line) < _LONGEST_HEADER and _may_begin(line):
            return None  # its server was killed as it began it
        try:
            data = json.loads(line)
            number = data[_KEY]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _not_a_segment(name) from error
        if number != FORMAT:
            raise NewerFormat(
                f"{name} has the format {str(number)[:_DIGITS]} of recordings, and this mlserve "
                f"reads format {FORMAT}",
                hint=f"read it with the mlserve that wrote it ({str(data.get('mlserve'))[:_DIGITS]}"
                " or later)",
            )
        try:
            found = cls(
                process=str(data["process"]),
                number=int(data["number"]),
                began=float(data["began"]),
                wall=float(data["wall"]),
                offset=float(data["offset"]),
                host=str(data.get("host", "")),
                pid=int(data.get("pid", 0)),
                share=float(data.get("share", 0.0)),
                mlserve=str(data.get("mlserve", "")),
            )
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:
            raise _not_a_segment(name) from error
        if not 0 <= found.began <= _LATEST:
            raise _not_a_segment(name)
        return found


def _may_begin(line: bytes) -> bool:
    begin = f'{{"{_KEY}"'.encode()
    return line.startswith(begin) or begin.startswith(line)


def _not_a_segment(name: str) -> NotASegment:
    return NotASegment(
        f"{name} is not a file of a recording, though it is named as one",
        hint="move it elsewhere; `mlserve up --record DIR` writes recordings",
    )


class Entries:
    """The entries of the next block of a file, which knows the kinds that it has already.

    Times are seconds; `at` counts from the header's `began`.
    """

    def __init__(self) -> None:
        self.kinds: dict[tuple[Any, ...], int] = {}
        """The number of each kind that the file has, by any key that stands for it."""
        self.count = 0
        self.size = 0
        self._parts: list[bytes] = []

    def begin_file(self) -> None:
        """Forget the kinds, as a new file has none."""
        self.kinds.clear()

    def add_kind(self, key: tuple[Any, ...], kind: Kind) -> int:
        """Add a kind, for which the key stands from now on, and return its number."""
        number = self.kinds[key] = len(self.kinds)
        text = _text(kind._asdict())
        self._add(_KIND.pack(_TAG_KIND, number, len(text)) + text)
        return number

    def add(
        self,
        kind: int,
        at: float,
        timeout: float,
        seconds: float,
        queue: float,
        decode: float,
        run: float,
        encode: float,
        bytes_in: int,
        sample: SampledBytes | None = None,
    ) -> None:
        """Add a request of the kind with that number."""
        tag = _TAG_REQUEST if sample is None else _TAG_SAMPLED
        self._parts.append(
            _pack(tag, kind, at, timeout, seconds, queue, decode, run, encode, bytes_in)
        )
        self.size += REQUEST_SIZE
        self.count += 1
        if sample is not None:
            self._add_bytes(sample)

    def take(self) -> bytes:
        """Return the block of these entries, and begin the next one."""
        payload = b"".join(self._parts)
        head = _BLOCK.pack(_MAGIC, len(payload), zlib.crc32(payload), self.count)
        self._parts.clear()
        self.count = self.size = 0
        return head + payload

    def drop(self) -> None:
        """Leave out what was added since `take`, with its kinds: the file does not get them."""
        self._parts.clear()
        self.kinds.clear()
        self.count = self.size = 0

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)

    def _add_bytes(self, sample: SampledBytes) -> None:
        headers, answer_headers = map(_text, (sample.headers, sample.answer_headers))
        answer = sample.answer
        digest = bytes.fromhex(sample.digest) if sample.digest else _NO_DIGEST
        self._add(
            _SAMPLED.pack(
                len(headers),
                len(sample.body),
                len(answer_headers),
                _NO_ANSWER if answer is None else len(answer),
                digest,
            )
        )
        for part in (headers, sample.body, answer_headers, answer or b""):
            self._add(part)


def size_of_kind(kind: Kind) -> int:
    """Return how many bytes the kind takes in a file."""
    return _KIND.size + len(_text(kind._asdict()))


def size_of_bytes(size: int, *headers: Mapping[str, str]) -> int:
    """Return how many bytes a body and an answer take that have so many together."""
    return _SAMPLED.size + size + sum(len(_text(each)) for each in headers)


def _text(data: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(data)).encode() if data else b""


def digest_of(answer: bytes) -> str:
    """Return the digest by which two answers are known to be the same."""
    return hashlib.sha256(answer).hexdigest()


@dataclass(slots=True)
class SegmentReader:
    """Reads the blocks of a file from where its header ends.

    `damaged` counts blocks that are not as they were written, and `lost` the requests in them.
    `is_torn`: the file ends within a block, as one does that is still written to, or whose server
    was killed. With `reads_bytes`, requests have their samples, which stay in the file.
    """

    header: SegmentHeader
    reads_bytes: bool = True
    damaged: int = 0
    lost: int = 0
    is_torn: bool = False
    _kinds: dict[int, Kind] = field(default_factory=dict)
    _known_headers: dict[bytes, Mapping[str, str]] = field(default_factory=dict)
    _stored: OpenFile | None = None

    def requests(self, file: IO[bytes]) -> Iterator[RecordedRequest]:
        """Yield the requests of all whole blocks. Raises OSError."""
        while head := file.read(_BLOCK.size):
            if len(head) < _BLOCK.size:
                self.is_torn = True
                return
            magic, size, checksum, count = _BLOCK.unpack(head)
            if magic != _MAGIC or size > _LARGEST_BLOCK:
                self.damaged += 1  # where the next one begins is not known
                return
            begin = file.tell()
            payload = file.read(size)
            if len(payload) < size:
                self.is_torn = True
                return
            if zlib.crc32(payload) != checksum:
                self.damaged += 1
                self.lost += min(count, size // REQUEST_SIZE)
                continue
            try:
                yield from self._entries(payload, file, begin)
            except _UNREADABLE:  # its checksum is right: it was not mlserve that wrote it
                self.damaged += 1

    def _entries(self, payload: bytes, file: IO[bytes], begin: int) -> Iterator[RecordedRequest]:
        """Yield the requests of a block that begins at that place of the file.

        Raises one of `_UNREADABLE` for what no server has written.
        """
        at, size, began = 0, len(payload), self.header.began
        while at < size:
            tag = payload[at]
            if tag == _TAG_KIND:
                _, number, length = _KIND.unpack_from(payload, at)
                at += _KIND.size
                if at + length > size:
                    raise ValueError("a kind is longer than its block")
                self._kinds[number] = Kind.from_json(json.loads(payload[at : at + length]))
                at += length
                continue
            if tag not in (_TAG_REQUEST, _TAG_SAMPLED):
                raise ValueError(f"there is no tag {tag}")
            found = _REQUEST.unpack_from(payload, at)
            _, number, arrived, timeout, seconds, queue, decode, run, encode, size_in = found
            times = timeout, seconds, queue, decode, run, encode
            # A number that is none is neither above nor below.
            if not 0 <= arrived <= _LATEST or not all(0 <= each <= _LATEST for each in times):
                raise ValueError("a time is out of bounds")
            at += REQUEST_SIZE
            sample, is_sampled = None, tag == _TAG_SAMPLED
            if is_sampled:
                sample, at = self._sample(payload, at, file, begin)
            kind = self._kinds.get(number)
            if kind is None:  # it was in a damaged block
                self.lost += 1
                continue
            yield RecordedRequest(kind, began + arrived, *times, size_in, sample, is_sampled)

    def _sample(
        self, payload: bytes, at: int, file: IO[bytes], begin: int
    ) -> tuple[StoredBytes | None, int]:
        """Return the sample at that place of the block, if it is wanted, and where it ends."""
        lengths = _SAMPLED.unpack_from(payload, at)
        about, body, about_answer, answer, digest = lengths
        at += _SAMPLED.size
        has_answer = answer != _NO_ANSWER
        ends = [at]
        for length in (about, body, about_answer, answer if has_answer else 0):
            ends.append(ends[-1] + length)
        if ends[-1] > len(payload):
            raise ValueError("a body is longer than its block")
        if not self.reads_bytes:
            return None, ends[-1]
        if self._stored is None:
            self._stored = OpenFile(file.fileno())
        sample = StoredBytes(
            file=self._stored,
            body_at=begin + ends[1],
            size=body,
            headers=self._headers(payload[ends[0] : ends[1]]),
            answer_at=begin + ends[3],
            answer_size=answer if has_answer else None,
            answer_headers=self._headers(payload[ends[2] : ends[3]]),
            digest="" if digest == _NO_DIGEST else digest.hex(),
        )
        return sample, ends[-1]

    def _headers(self, text: bytes) -> Mapping[str, str]:
        """Return the headers in a sample: most have the same. Raises one of `_UNREADABLE`."""
        found = self._known_headers.get(text)
        if found is None:
            found = self._known_headers[text] = _read_headers(text)
        return found


def _read_headers(text: bytes) -> Mapping[str, str]:
    """Return the headers that a server records, and no others: they are sent to another one."""
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise TypeError("headers are an object")
    kept = {name: str(value) for name, value in found.items() if name in CONTENT_HEADERS}
    if any(_BAD_IN_HEADERS.search(value) for value in kept.values()):
        raise ValueError("a header has a control character")
    return kept
