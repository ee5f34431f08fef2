"""What is kept of a request: its kind, its times, and its bytes if it was sampled."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from mlserve.wire.headers import JSON_LENGTH

OK = "ok"
"""The code of a request that was answered."""
CONTENT_HEADERS = ("content-type", "content-encoding", JSON_LENGTH)
"""The headers that say what a body is. No others are kept, so no token and no cookie is."""


class Kind(NamedTuple):
    """What many requests have in common, so that a file holds it once.

    `path` is that of an HTTP request after its method, or the name of a gRPC method. `model`,
    `version` and `signature` are what was served, empty and None for a request that was refused
    before it was read. `token` is the name of the caller's token, never the token. `code` is how it
    ended: ok, cancelled, or the kind of an error; `refused` is the engine's reason.
    """

    api: str = ""
    transport: str = ""
    path: str = ""
    model: str = ""
    version: int | None = None
    signature: str = ""
    priority: str = ""
    token: str = ""
    code: str = ""
    refused: str = ""

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `_asdict` gave; what a later mlserve adds is left out.

        Raises TypeError, ValueError or ArithmeticError for data of another shape.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a kind is an object, not {type(data).__name__}")
        version = data.get("version")
        texts = {
            name: str(data.get(name, "")).encode(errors="replace").decode()
            for name in cls._fields
            if name != "version"
        }
        return cls(**texts, version=None if version is None else int(version))

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return self.code == OK


@dataclass(frozen=True, slots=True)
class SampledBytes:
    """The body of a request as it was sent, and of its answer; over gRPC the two messages.

    The headers are those of `CONTENT_HEADERS`. `answer` is None if there was none, or if it was too
    long to be kept; `digest` is its SHA-256 in hex, empty if it was not kept.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: bytes | None = None
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""

    @property
    def size(self) -> int:
        """The bytes of the body."""
        return len(self.body)

    def fetch_body(self) -> None:
        """Do nothing: it is in memory."""

    @property
    def has_answer(self) -> bool:
        """Whether the answer was kept."""
        return self.answer is not None


class OpenFile:
    """A file whose bytes can be read for as long as this lives, even once it is removed."""

    def __init__(self, descriptor: int) -> None:
        """Take the file that is open under that descriptor, which may be closed."""
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, at: int, size: int) -> bytes:
        """Return so many bytes from that place on. Raises OSError, also if there are fewer."""
        parts = []
        while size:
            part = os.pread(self._descriptor, size, at)
            if not part:
                raise OSError("the file was cut")
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return b"".join(parts)

    def fetch(self, at: int, size: int) -> None:
        """Have the system read these bytes soon, without waiting for them; some systems do not."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # a file system may refuse it, and the bytes are read later
                os.posix_fadvise(self._descriptor, at, size, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """The same as `SampledBytes`, left in its file until it is asked for.

    So a recording may have more of them than fits in memory. `body_at` and `answer_at` are places
    in the file; `answer_size` None means that no answer was kept. `body` and `answer` raise
    OSError.
    """

    file: OpenFile
    body_at: int
    size: int
    headers: Mapping[str, str]
    answer_at: int
    answer_size: int | None
    answer_headers: Mapping[str, str]
    digest: str

    @property
    def body(self) -> bytes:
        """The body, read now."""
        return self.file.read(self.body_at, self.size)

    def fetch_body(self) -> None:
        """Have the system bring the body into memory, so that it need not be waited for."""
        self.file.fetch(self.body_at, self.size)

    @property
    def answer(self) -> bytes | None:
        """The answer, read now."""
        size = self.answer_size
        return None if size is None else self.file.read(self.answer_at, size)

    @property
    def has_answer(self) -> bool:
        """Whether the answer was kept."""
        return self.answer_size is not None


Sampled = SampledBytes | StoredBytes


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request of a recording. Times are seconds.

    `arrived` is a Unix time. `timeout` is what the caller allowed, 0 if it set no deadline.
    `seconds` is how long it was in the server, until its answer was written or its caller left;
    `queue`, `decode`, `run` and `encode` are the stages that it reached. `bytes_in` is the size of
    its body as sent. `sample` are its bytes, if they were kept and are wanted; `is_sampled` says
    that they were kept.
    """

    kind: Kind
    arrived: float
    timeout: float
    seconds: float
    queue: float
    decode: float
    run: float
    encode: float
    bytes_in: int
    sample: Sampled | None = None
    is_sampled: bool = False

    @property
    def is_in_time(self) -> bool:
        """Whether it was answered, and within what its caller allowed."""
        return self.kind.is_ok and (not self.timeout or self.seconds <= self.timeout)

    def to_json(self) -> dict[str, Any]:
        """Return it as data, without its bytes."""
        sample = self.sample
        return {
            "arrived": round(self.arrived, 6),
            "timeout": round(self.timeout, 6) or None,
            **self.kind._asdict(),
            "bytes": self.bytes_in,
            **{
                f"{name}_ms": round(getattr(self, name) * 1000, 3)
                for name in ("queue", "decode", "run", "encode")
            },
            "total_ms": round(self.seconds * 1000, 3),
            "body_bytes": None if sample is None else sample.size,
            "answer_sha256": None if sample is None else sample.digest or None,
        }
