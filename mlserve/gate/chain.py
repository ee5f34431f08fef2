"""Lines of an audit file, each of which holds the SHA-256 of the line before, and its own.

A line is one JSON object in ASCII. Its last member is `sha256`: the digest of the line without it,
in hexadecimal. So a line is checked as the bytes that were written, whatever reads the JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

FIRST = "0" * 64
"""What the first line of all has in place of the digest of a line before it."""
_SEAL = b',"sha256":"'
_END = b'"}\n'
_SEAL_BYTES = len(_SEAL) + 64 + len(_END)


class Line(NamedTuple):
    """A line: its number, counted from 1 over all files; its digests; and all of its members."""

    seq: int
    prev: str
    sha256: str
    data: Mapping[str, Any]


class BadLine(ValueError):
    """Bytes that are not a line as a gate writes it."""


def sealed(seq: int, prev: str, record: Mapping[str, Any]) -> tuple[bytes, Line]:
    """Return the bytes of a line, with its line feed, and the line. Raises ValueError for NaN."""
    data = {"seq": seq, "prev": prev, **record}
    body = json.dumps(data, separators=(",", ":"), allow_nan=False).encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + _SEAL + digest.encode() + _END, Line(seq, prev, digest, data)


def read_line(line: bytes) -> Line:
    """Return the line of these bytes, with its line feed. Raises BadLine."""
    body, seal = line[:-_SEAL_BYTES] + b"}", line[-_SEAL_BYTES:]
    if not (seal.startswith(_SEAL) and seal.endswith(_END)):
        raise BadLine("it is not a line of a gate")
    digest = hashlib.sha256(body).hexdigest()
    if seal[len(_SEAL) : -len(_END)] != digest.encode():
        raise BadLine("it was changed")
    try:
        data = json.loads(body)
        return Line(int(data["seq"]), str(data["prev"]), digest, data)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadLine("it is not a line of a gate") from error
