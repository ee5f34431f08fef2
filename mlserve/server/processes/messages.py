"""What the server and a runner process say to each other."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from mlserve.admission.estimates import CostKey
from mlserve.backend import (
    Batching,
    HasDefinitions,
    RunsOn,
    batching_of,
    judges_shapes,
)
from mlserve.deadline import Deadline
from mlserve.digests import Digests
from mlserve.errors import MlserveError, Unavailable
from mlserve.ladder.climb import RowRung
from mlserve.server.engine.work import Kept
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.versions import ModelSpec
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature


class Load(NamedTuple):
    """To the process, first of all: load that version.

    `codecs` are the modules whose codecs will come: imported now, they cost no request its time.
    """

    source: ModelSpec
    version: int
    codecs: Sequence[str]


class Loaded(NamedTuple):
    """From the process: the version is loaded and warmed up; this is its Runner.

    `definitions` is None for a Runner that has none. `files` are the digests of its files, if
    mlserve exported it.
    """

    signatures: Mapping[str, Signature]
    judges_shapes: bool
    batching: Batching | None
    definitions: Mapping[str, bytes] | None
    runs_on: RunsOn
    files: Digests | None

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> Loaded:
        """Describe the version's Runner."""
        runner, manifest = loaded.runner, loaded.artifact.manifest
        definitions = dict(runner.definitions) if isinstance(runner, HasDefinitions) else None
        signatures = dict(runner.signatures)
        judges, batching = judges_shapes(runner), batching_of(runner)
        files = None if manifest is None else manifest.files
        return cls(signatures, judges, batching, definitions, loaded.standing.runs_on, files)

    def require_same(self, other: Loaded, name: str) -> None:
        """Raise Unavailable for another model than this one, whose files have been overwritten.

        They are served once the server loads them, in processes of their own: a caller must not get
        the answers of one model or the other.
        """
        if (self.signatures, self.files) != (other.signatures, other.files):
            raise Unavailable(
                f"the files of {name} are not those that it was loaded from",
                hint="have the server load the version again, or put its files back",
            )


class Failed(NamedTuple):
    """From the process: the version cannot be loaded, or the answer to a question is an error."""

    error: MlserveError


class Order(NamedTuple):
    """One call of a `Task`. `entered_at` is when it was queued, on the machine's monotonic clock.

    The ids belong to the log lines about it. It `keeps` what was asked and answered, if that is
    small.
    """

    codec: Any
    kind: CostKey
    deadline: Deadline
    entered_at: float
    threads: int
    only_rung: int | None
    request_id: str
    trace_id: str
    keeps: bool


class Task(NamedTuple):
    """To the process: do these together. `settings` is given once, and again when they change."""

    orders: Sequence[Order]
    settings: ServerSettings | None


class Result(NamedTuple):
    """How one call of a task went: the fields of `Work`, and of `Execution` its place and rows.

    `signature` is the name of the one that ran; None for a call that was not read. `times` are the
    values of its `StageTimes`.
    """

    answer: Any
    error: MlserveError | None
    read_as: CostKey
    signature: str | None
    times: tuple[float, ...]
    execution: tuple[int, int] | None
    rungs: tuple[RowRung, ...]
    kept: Kept | None


class Report(NamedTuple):
    """From the process: the results of a task in its order, and the sizes of its batches."""

    results: Sequence[Result]
    sizes: Sequence[int]


class Subject(IntEnum):
    """What a process asks or tells in the middle of a task, about one call of it."""

    FAULT = 1
    """Is a call of this kind, due then, worth running? Answered with None or `Failed`."""
    ROOM = 2
    """May the body take so many more bytes? Fewer than 0 are given back. Answered as above."""
    SOONER = 3
    """The answer is due by this deadline. Not answered."""


class Aside(NamedTuple):
    """From the process, in the middle of a task."""

    subject: Subject
    place: int
    values: tuple[Any, ...]


def sendable(answer: Any) -> Any:
    """Return the answer with its bytes as buffers, which need not be copied into a pickle."""
    if isinstance(answer, bytes):
        return pickle.PickleBuffer(answer)
    if type(answer) is tuple:
        return tuple(map(sendable, answer))
    return answer
