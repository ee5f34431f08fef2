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
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import IO, Any, Self

from mlserve.errors import InvalidInput, UsageError
from mlserve.recording.records import Kind, RecordedRequest, SampledBytes

FORMAT = 1
_KEY = "mlserve_recording"
_BLOCK = struct.Struct("<4sIII")
_MAGIC = b"mlrb"
_TAG_KIND, _TAG_REQUEST, _TAG_SAMPLED = 1, 2, 3
_KIND = struct.Struct("<BIH")
_REQUEST = struct.Struct("<BIdffffffQ")
_pack, _REQUEST_SIZE = _REQUEST.pack, _REQUEST.size
_SAMPLED = struct.Struct("<HIHI32s")
_NO_ANSWER = 2**32 - 1
"""The length of an answer that was not kept."""
_NO_DIGEST = bytes(32)
_LONGEST_HEADER = 2**16
_LARGEST_BLOCK = 2**28
"""More bytes than a block ever has: a length above it is no length."""
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
            return cls(
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
        except (ValueError, TypeError, KeyError) as error:
            raise _not_a_segment(name) from error


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
        text = json.dumps(kind._asdict()).encode()
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
        self.size += _REQUEST_SIZE
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
        headers, answer_headers = (
            json.dumps(dict(each)).encode() if each else b""
            for each in (sample.headers, sample.answer_headers)
        )
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
        for part in (headers, bytes(sample.body), answer_headers, answer or b""):
            self._add(part)


def digest_of(answer: bytes) -> str:
    """Return the digest by which two answers are known to be the same."""
    return hashlib.sha256(answer).hexdigest()


@dataclass(slots=True)
class SegmentReader:
    """Reads the blocks of a file from where its header ends.

    `damaged` counts blocks that are not as they were written, and `lost` the requests in them.
    `is_torn`: the file ends within a block, as one does that is still written to, or whose server
    was killed. With `reads_bytes`, samples are read too.
    """

    header: SegmentHeader
    reads_bytes: bool = True
    damaged: int = 0
    lost: int = 0
    is_torn: bool = False
    _kinds: dict[int, Kind] = field(default_factory=dict)

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
            payload = file.read(size)
            if len(payload) < size:
                self.is_torn = True
                return
            if zlib.crc32(payload) != checksum:
                self.damaged += 1
                self.lost += count
                continue
            try:
                yield from self._entries(payload)
            except (ValueError, TypeError, IndexError, struct.error):
                self.damaged += 1

    def _entries(self, payload: bytes) -> Iterator[RecordedRequest]:
        at, size, began = 0, len(payload), self.header.began
        while at < size:
            tag = payload[at]
            if tag == _TAG_KIND:
                _, number, length = _KIND.unpack_from(payload, at)
                at += _KIND.size
                self._kinds[number] = Kind.from_json(json.loads(payload[at : at + length]))
                at += length
                continue
            if tag not in (_TAG_REQUEST, _TAG_SAMPLED):
                self.damaged += 1  # a checksum is right by chance once in four thousand million
                return
            found = _REQUEST.unpack_from(payload, at)
            _, number, arrived, timeout, seconds, queue, decode, run, encode, size_in = found
            at += _REQUEST.size
            sample = None
            if tag == _TAG_SAMPLED:
                sample, at = self._sample(payload, at)
            kind = self._kinds.get(number)
            if kind is None:  # it was in a damaged block
                self.lost += 1
                continue
            times = timeout, seconds, queue, decode, run, encode
            is_sampled = tag == _TAG_SAMPLED
            yield RecordedRequest(kind, began + arrived, *times, size_in, sample, is_sampled)

    def _sample(self, payload: bytes, at: int) -> tuple[SampledBytes | None, int]:
        lengths = _SAMPLED.unpack_from(payload, at)
        about, body, about_answer, answer, digest = lengths
        at += _SAMPLED.size
        has_answer = answer != _NO_ANSWER
        ends = [at]
        for length in (about, body, about_answer, answer if has_answer else 0):
            ends.append(ends[-1] + length)
        if not self.reads_bytes:
            return None, ends[-1]
        parts = [payload[one:two] for one, two in pairwise(ends)]
        sample = SampledBytes(
            body=parts[1],
            headers=_headers(parts[0]),
            answer=parts[3] if has_answer else None,
            answer_headers=_headers(parts[2]),
            digest="" if digest == _NO_DIGEST else digest.hex(),
        )
        return sample, ends[-1]


def _headers(text: bytes) -> Mapping[str, str]:
    return dict(json.loads(text)) if text else {}
