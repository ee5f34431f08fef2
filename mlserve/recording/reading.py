"""Read a recording, of one folder or of several, also while servers write to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlserve.errors import UsageError, counted
from mlserve.recording.folder import SegmentFile, is_written, require_recording
from mlserve.recording.records import Kind, RecordedRequest
from mlserve.recording.segment import SegmentHeader, SegmentReader


@dataclass(slots=True)
class Recording:
    """The requests in some folders. What cannot be read is counted, never guessed.

    `damaged` counts parts of files that are not as they were written, `lost` the requests that are
    known to have been in them, `torn` files that end in the middle of a block, as of a server that
    was killed, and `empty` those that end before their first line does.
    """

    folders: tuple[Path, ...]
    files: list[SegmentFile]
    damaged: int = 0
    lost: int = 0
    torn: int = 0
    empty: int = 0
    shares: set[float] = field(default_factory=set)

    @classmethod
    def open(cls, folders: Sequence[Path]) -> Recording:
        """Find the files. Raises NotFound for a folder without any, and UsageError."""
        files = [file for folder in folders for file in require_recording(folder)]
        return cls(tuple(folders), files)

    def requests(self, *, reads_bytes: bool = False) -> Iterator[RecordedRequest]:
        """Yield all requests, file by file, those of a file in the order in which they ended.

        Raises NewerFormat, and UsageError for a file that cannot be read.
        """
        self.damaged = self.lost = self.torn = self.empty = 0
        self.shares.clear()
        for file in self.files:
            yield from self._requests_of(file, reads_bytes=reads_bytes)

    def _requests_of(self, file: SegmentFile, *, reads_bytes: bool) -> Iterator[RecordedRequest]:
        was_written = is_written(file.path)
        try:
            with file.path.open("rb") as opened:
                header = SegmentHeader.read(opened, str(file.path))
                if header is None:
                    self.empty += not was_written
                    return
                self.shares.add(header.share)
                reader = SegmentReader(header, reads_bytes)
                yield from reader.requests(opened)
        except FileNotFoundError:  # it was the oldest, and its server has let it go
            return
        except OSError as error:
            raise UsageError(
                f"{file.path} cannot be read: {error.strerror or error}",
                hint="recordings are readable by the user of their server alone",
            ) from error
        self.damaged += reader.damaged
        self.lost += reader.lost
        self.torn += reader.is_torn and not was_written

    @property
    def problems(self) -> list[str]:
        """What was not read, in words, after `requests` has ended."""
        found = []
        if self.damaged:
            found.append(
                f"{counted(self.damaged, 'part')} of its files are damaged and were left out"
                + (f", with {counted(self.lost, 'request')}" if self.lost else "")
            )
        if self.torn or self.empty:
            ended = counted(self.torn + self.empty, "file")
            found.append(
                f"{ended} ended early, as of a server that was killed: what was not yet written "
                "is missing"
            )
        return found


@dataclass(slots=True)
class Summary:
    """What a recording holds. Times are Unix times in seconds; `in_time` counts the answers."""

    requests: int = 0
    in_time: int = 0
    sampled: int = 0
    first: float = 0.0
    last: float = 0.0
    bytes_in: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)

    def add(self, request: RecordedRequest) -> None:
        """Count a request."""
        arrived = request.arrived
        self.first = min(self.first, arrived) if self.requests else arrived
        self.last = max(self.last, arrived) if self.requests else arrived
        self.requests += 1
        self.in_time += request.is_in_time
        self.sampled += request.is_sampled
        self.bytes_in += request.bytes_in
        self.kinds[request.kind] += 1

    @property
    def seconds(self) -> float:
        """The time from the first arrival to the last."""
        return self.last - self.first

    def counts(self, *names: str) -> Counter[tuple[str, ...]]:
        """Return how many requests there are of each value of these fields of their kinds."""
        found: Counter[tuple[str, ...]] = Counter()
        for kind, count in self.kinds.items():
            found[tuple(_text(getattr(kind, name)) for name in names)] += count
        return found


def _text(value: object) -> str:
    return "" if value is None else str(value)
