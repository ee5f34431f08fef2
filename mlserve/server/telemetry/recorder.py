"""Record the traffic of a server on disk: `--record DIR`.

On the event loop a request that has ended is put into a queue, and that is all. A thread writes the
queue to the ring four times a second. A queue that is full, or a disk that is, costs requests of
the recording, which are counted, and never an answer.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from mlserve.paths import expanded
from mlserve.recording.folder import prepare
from mlserve.recording.records import Kind, SampledBytes
from mlserve.recording.ring import Ring
from mlserve.recording.segment import (
    BLOCK_HEAD,
    REQUEST_SIZE,
    Entries,
    digest_of,
    size_of_bytes,
    size_of_kind,
)
from mlserve.server.request import Purpose, RequestRecord, Sample
from mlserve.settings import ServerSettings

MOST_WAITING = 10_000
"""How many requests wait for the writer before further ones are lost."""
MOST_HELD = 64 * 2**20
"""How many bytes of bodies and answers wait for the writer before further ones are left out."""
_EVERY = 0.25
_AT_ONCE = 256
"""How many requests a block has at most: each block that is written lets the event loop go on."""
_RETRY = 5.0
"""Seconds after which a disk that could not be written is tried again."""
_LAST_WORDS = 2.0
"""Seconds that a server which stops waits for what is still to be written."""
_MOST_HEADERS = 1000
"""Characters of the headers of a body that are kept."""

_PREDICT = Purpose.PREDICT
_log = logging.getLogger(__name__)
Ended = tuple[RequestRecord, float]


@dataclass(slots=True)
class RecordingCounts:
    """How many requests were recorded and lost, and how many bodies or answers were left out.

    `busy` were lost because the queue was full, `unwritten` because the disk could not be written.
    """

    recorded: int = 0
    busy: int = 0
    unwritten: int = 0
    bodies: int = 0

    @property
    def lost(self) -> int:
        """How many requests are missing."""
        return self.busy + self.unwritten


class Recorder:
    """Writes each predict request that ends, but for probes, to the ring in `settings.record`.

    `ended` and `sample` are for the event loop, and `close` for any thread. Raises UsageError if
    the folder cannot be written.
    """

    def __init__(self, settings: ServerSettings) -> None:
        assert settings.record is not None
        self.counts = RecordingCounts()
        self.problem = ""
        """Why nothing can be written now; empty while it can."""
        self._share = settings.record_bodies or 0.0
        self._chance = random.Random()  # noqa: S311 - a sample, not a secret
        self._queue: deque[Ended] = deque()
        self._taken = self._written = 0
        self._retry_at = 0.0
        self._entries = Entries()
        folder = expanded(settings.record).absolute()
        note = prepare(folder)
        self._epoch, began = time.monotonic(), time.time()
        self._ring = Ring(
            folder,
            settings.record_bytes,
            began=began,
            share=self._share,
            clock=lambda: time.monotonic() - self._epoch,
        )
        self._largest = self._ring.sizes.body
        if note is not None:
            _log.warning("%s", note)
        _log.info("recording to %s, at most %d bytes", folder, settings.record_bytes)
        self._is_closing = Event()
        self._thread = Thread(target=self._run, name="mlserve-recorder", daemon=True)
        self._thread.start()

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """Take note of a request that ended so many seconds after it arrived."""
        if record.route.purpose is not _PREDICT or record.is_probe:
            return
        if len(self._queue) >= MOST_WAITING:
            self.counts.busy += 1
            self._let_go(record)
            return
        self._queue.append((record, seconds))

    def sample(self) -> Sample | None:
        """Return where the bytes of a new request are kept; None for most requests."""
        if not self._share or self._chance.random() >= self._share:
            return None
        return Sample(self._takes)

    def close(self) -> None:
        """Write what is left, for two seconds at most, and close the file."""
        self._is_closing.set()
        self._thread.join(_LAST_WORDS)

    def to_json(self) -> dict[str, Any]:
        """Return how it is going, for `mlserve status`."""
        return {
            "problem": self.problem,
            "recorded": self.counts.recorded,
            "lost": self.counts.lost,
            "bodies_lost": self.counts.bodies,
        }

    def _takes(self, size: int) -> bool:
        """Count so many bytes of a sample, if there is room for them."""
        has_room = size <= self._largest and self._taken - self._written + size <= MOST_HELD
        if has_room:
            self._taken += size
        else:
            self.counts.bodies += 1
        return has_room

    def _let_go(self, record: RequestRecord) -> None:
        """Give the room back of a request that is not written; on the event loop."""
        if record.sample is not None:
            self._taken -= record.sample.size
            record.sample = None

    # On the writer's thread.

    def _run(self) -> None:
        while not self._is_closing.wait(_EVERY):
            self._flush()
        self._flush()
        self._ring.close()

    def _flush(self) -> None:
        if self.problem and time.monotonic() < self._retry_at and not self._is_closing.is_set():
            self._drop()
            return
        while self._queue:
            count = 0
            try:
                count = self._fill(self._ring.room)
                if not count:
                    self._entries.begin_file()
                    self._ring.begin()
                    count = self._fill(self._ring.room, is_new=True)
                self._ring.write(self._entries.take())
            except OSError as error:
                self._stop(error.strerror or type(error).__name__, count)
                return
            except Exception as error:  # noqa: BLE001 - a bug here must not end what is recorded
                _log.exception("a request could not be recorded")
                self._stop(type(error).__name__, count or self._entries.count + 1)
                return
            self.counts.recorded += count
            if self.problem:
                self._go_on()

    def _fill(self, room: int, *, is_new: bool = False) -> int:
        """Move requests from the queue to the entries of the next block; return how many.

        The block takes as many bytes as the file has room for, at most. A new file takes one
        request at least, without its bytes if they are too many.
        """
        entries, queue, epoch = self._entries, self._queue, self._epoch
        known, add, most = entries.kinds.get, entries.add, self._ring.sizes.block
        count, room = 0, room - BLOCK_HEAD
        while queue and count < _AT_ONCE and entries.size < most:
            record, seconds = queue[0]
            route, times = record.route, record.times
            # fmt: off
            key = (
                route.path, route.api, route.transport, record.model, record.version,
                record.signature, record.priority, record.caller.token, record.code,
                record.refused,
            )
            # fmt: on
            number, size = known(key), REQUEST_SIZE
            kind: Kind | None = None
            if number is None:
                kind = _kind_of(record)
                size += size_of_kind(kind)
            if entries.size + size + _size_of_bytes(record.sample) > room:
                if count or not is_new:
                    break
                self._leave_bytes_out(record)
            queue.popleft()
            count += 1
            sample = record.sample
            if kind is not None:
                number = entries.add_kind(key, kind)
            assert number is not None
            add(
                number,
                record.began - epoch,
                record.deadline,
                seconds,
                times.queue,
                times.decode,
                times.run,
                times.encode,
                record.bytes_in,
                None if sample is None else self._bytes_of(sample),
            )
        return count

    def _leave_bytes_out(self, record: RequestRecord) -> None:
        if record.sample is not None:
            self.counts.bodies += 1
            self._written += record.sample.size
            record.sample = None

    def _bytes_of(self, sample: Sample) -> SampledBytes | None:
        self._written += sample.size
        if sample.body is None:
            return None
        answer = sample.answer
        return SampledBytes(
            sample.body,
            _short(sample.headers),
            answer,
            _short(sample.answer_headers),
            "" if answer is None else digest_of(answer),
        )

    def _drop(self) -> None:
        """Lose what waits."""
        while self._queue:
            record, _ = self._queue.popleft()
            self.counts.unwritten += 1
            if record.sample is not None:
                self._written += record.sample.size

    def _stop(self, reason: str, count: int) -> None:
        """Note that the disk cannot be written, and say so once."""
        self._entries.drop()
        self._ring.close()  # kinds that were not written are not known to this file
        self.counts.unwritten += count
        self._retry_at = time.monotonic() + _RETRY
        if not self.problem:
            _log.warning(
                "recording has stopped, and requests are served as before: %s (%s); it is tried "
                "again every %g s",
                *(reason, self._ring.folder, _RETRY),
            )
        self.problem = reason
        self._drop()

    def _go_on(self) -> None:
        self.problem = ""
        _log.info("recording goes on; %d requests are missing so far", self.counts.lost)


def _kind_of(record: RequestRecord) -> Kind:
    route = record.route
    return Kind(
        api=route.api,
        transport=route.transport,
        path=route.path.partition(" ")[2] or route.path,  # over HTTP the method comes first
        model=record.model,
        version=record.version,
        signature=record.signature,
        priority=record.priority.in_words,
        token=record.caller.token,
        code=record.code,
        refused=record.refused,
    )


def _short(headers: Any) -> dict[str, str]:
    """Return the headers, unless they are so long that they say something else."""
    size = sum(len(name) + len(value) for name, value in headers.items())
    return dict(headers) if size <= _MOST_HEADERS else {}


def _size_of_bytes(sample: Sample | None) -> int:
    """Return how many bytes the sample takes in a file."""
    if sample is None or sample.body is None:
        return 0
    return size_of_bytes(sample.size, _short(sample.headers), _short(sample.answer_headers))
