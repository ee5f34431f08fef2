"""The part of a call that needs no event loop: decode it, run the model, encode the answer.

    decode each -> group those that agree -> stack, run once, split -> encode each

A work that fails fails alone: one that cannot be read never enters a batch, and if a batch fails,
each of its works is run by itself, so that only the one at fault gets an error, with the right
index in it. Nothing here raises: what goes wrong is a work's `error`.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from mlserve.admission.estimates import CostKey
from mlserve.admission.verdicts import IN_QUEUE
from mlserve.backend import Runner, judges_shapes, limit_threads
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, MlserveError, Unavailable
from mlserve.ladder.climb import Climb, RowRung, climb, require_certain
from mlserve.server.body_memory import UNBOUNDED, Room
from mlserve.server.codec.images import work_of
from mlserve.server.errors import as_exception
from mlserve.server.models.loading import Served
from mlserve.server.request import StageTimes
from mlserve.server.telemetry.statistics import Execution
from mlserve.server.tensors import check_shapes
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors


Answer = TypeVar("Answer")
_DOING = (IN_QUEUE, "reading the request", "running the model", "writing the answer")
_DECODE, _RUN, _ENCODE = 1, 2, 3
"""The places in `_DOING` of the stages that a work goes through."""
_MOST_TEXTS = 20_000
"""The most texts of a call that is kept: counting their bytes takes two milliseconds."""


class Codec(ABC, Generic[Answer]):
    """One request as a protocol has it: how it is read, and how its answer is written.

    Both are called once, on the thread that runs the model. A codec holds values only, no part of
    the server, and so does its answer: the thread may be in another process. `room` bounds what
    reading it takes.
    """

    room: Room = UNBOUNDED
    gives_arrays = False
    """Whether the answer has the outputs themselves, which its caller may change at any time."""

    @abstractmethod
    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        """Return the signature to run and its inputs, within the server's limits.

        Raises what the protocol answers a bad request with, such as InvalidInput and NotFound.
        """

    @abstractmethod
    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> Answer:
        """Return the answer: bytes, as a rule. Raises InvalidInput and InferenceFailed."""

    def sooner(self, deadline: Deadline) -> Deadline:
        """Return that deadline or an earlier one that the request holds; called after `decode`."""
        return deadline

    def let_go(self) -> bool:
        """Drop a large request that is now in another process; return whether it was dropped.

        It cannot be sent again then.
        """
        return False


class Kept(NamedTuple):
    """What was asked of a version, and what it answered: another one may be asked the same."""

    signature: str
    inputs: Tensors
    outputs: Tensors

    @property
    def length(self) -> float:
        """The bytes of a copy; infinite with too many texts, or with anything but these in them."""
        own: int = sum(array.nbytes for array in self._arrays)
        return own + _size_of_texts(self._arrays)

    @property
    def size(self) -> float:
        """The bytes that it keeps in memory; infinite as `length` is.

        An array may be a part of another one, such as a whole batch's or a request's body, which
        stays in memory with it.
        """
        owners = dict(map(_owner_of, self._arrays))
        return sum(owners.values()) + _size_of_texts(self._arrays)

    @property
    def _arrays(self) -> list[Any]:
        return [*self.inputs.values(), *self.outputs.values()]


def _size_of_texts(arrays: Iterable[Any]) -> float:
    """Return the bytes of what arrays of objects refer to."""
    texts = [array for array in arrays if array.dtype == object]
    if sum(array.size for array in texts) > _MOST_TEXTS:
        return math.inf  # looking at each would keep the event loop from other work
    items = [item for array in texts for item in array.flat]
    is_plain = all(type(item) in (bytes, str) for item in items)
    return sum(map(sys.getsizeof, items)) if is_plain else math.inf


def _owner_of(array: Any) -> tuple[int, int]:
    """Return the identity of what has the array's memory, and its bytes."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    owner = array.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if isinstance(owner, bytes | bytearray):
        return id(owner), len(owner)
    return id(array if owner is None else owner), array.nbytes


class Caller(Protocol):
    """Whoever waits for a work's answer, asked from the thread that does the work."""

    def has_left(self) -> bool:
        """Return whether nobody waits any more."""

    def enter(self, stage: int) -> None:
        """Take note of the stage that the work begins."""

    def find_fault(self, kind: CostKey, deadline: Deadline) -> MlserveError | None:
        """Return why a call of that kind is not worth running; None if it is."""

    def bring_forward(self, work: Work[Any]) -> None:
        """Take note that the work's deadline is now an earlier one."""


class Elsewhere(Protocol):
    """Where a work is done that is not done in this process."""

    @property
    def stage(self) -> int:
        """The stage that it is in, as for `Caller.enter`."""

    def leave(self) -> None:
        """Say that nobody waits for it any more."""


class Work(Generic[Answer]):
    """What is to be done for one call, and how that went.

    `kind` is what the call was admitted as, `read_as` what it turned out to be. `threads` is how
    many CPU threads its run may use; 0 leaves that to the Runner. Times are on the monotonic clock.
    The ids are the request's, for the log.
    """

    def __init__(
        self,
        codec: Codec[Answer],
        served: Served,
        runner: Runner,
        settings: ServerSettings,
        kind: CostKey,
        deadline: Deadline,
        times: StageTimes,
        caller: Caller,
        request_id: str = "",
        trace_id: str = "",
    ) -> None:
        self.codec = codec
        self.served = served
        self.runner = runner
        self.settings = settings
        self.kind = kind
        self.deadline = deadline
        self.times = times
        self.caller = caller
        self.request_id = request_id
        self.trace_id = trace_id
        self.entered_at = time.monotonic()
        self.threads = 0
        self.only_rung: int | None = None
        """Of a model on a ladder, the only rung to run; None lets uncertain rows climb."""
        self.elsewhere: Elsewhere | None = None
        self._stage = 0
        self.read_as = kind
        self.signature: Signature | None = None
        self.inputs: Tensors = {}
        self.outputs: Tensors = {}
        self.execution: Execution | None = None
        """The run that gave the outputs, possibly shared with other works."""
        self.rungs: tuple[RowRung, ...] = ()
        """Of a model on a ladder, the rung that answered each row."""
        self.result: Answer | None = None
        self.error: Exception | None = None
        self.keeps = False
        """Whether to keep the inputs and outputs once it is answered."""
        self.kept: Kept | None = None

    @property
    def doing(self) -> str:
        """What is being done, to say in the message of a deadline that passes meanwhile."""
        elsewhere = self.elsewhere
        return _DOING[self._stage if elsewhere is None else elsewhere.stage]

    def decode(self) -> None:
        """Read the request."""
        times = self.times
        times.queue_at = self.entered_at
        times.queue = time.monotonic() - self.entered_at

        def read() -> None:
            runner, served = self.runner, self.served
            self.signature, self.inputs = self.codec.decode(runner.signatures, self.settings)
            if not judges_shapes(runner):
                check_shapes(self.signature, self.inputs)
            name, decoding = self.signature.name, work_of(self.inputs)
            self.read_as = CostKey.from_rows(
                served.model, served.version, name, self.rows, decoding
            )
            self._bring_forward(self.codec.sooner(self.deadline))

        self._attempt("decode", _DECODE, read)

    def run(self) -> None:
        """Run the model for this call alone."""

        def run() -> None:
            assert self.signature is not None
            limit_threads(self.runner, self.threads)
            asked = self.runner, self.signature.name, self.inputs, self.deadline
            climbed = climb(*asked, only_rung=self.only_rung)
            self.outputs, self.rungs = climbed.outputs, climbed.rows
            self.execution = Execution(
                self.served.model, self.served.version, self.rows, (self.times,)
            )
            require_certain(climbed.rows, climbed.needed, self.deadline)

        self._attempt("run", _RUN, run)

    def take_rungs(self, rungs: tuple[RowRung, ...], needed: float) -> None:
        """Take the rungs of its rows in a batch; fail if one is refused (`require_certain`)."""
        self.rungs = rungs
        try:
            require_certain(rungs, needed, self.deadline)
        except MlserveError as error:
            self.error = error

    def encode(self) -> None:
        """Write the answer."""

        def write() -> None:
            assert self.signature is not None
            self.result = self.codec.encode(self.served, self.signature, self.outputs)

        self._attempt("encode", _ENCODE, write)
        if self.keeps and self.error is None and self.signature is not None:
            with suppress(MemoryError):  # the answer does not depend on it
                outputs = self.outputs
                if self.codec.gives_arrays:
                    outputs = {name: array.copy() for name, array in outputs.items()}
                self.kept = Kept(self.signature.name, self.inputs, outputs)
        self.inputs = self.outputs = {}

    def require_time(self) -> None:
        """Fail the work if the time left is too short for what the request turned out to be."""
        if self.error is None:
            least = self.read_as.climbing(False if self.is_on_ladder else None)
            self.error = self.caller.find_fault(least, self.deadline)

    def is_wanted(self) -> bool:
        """Return whether to run it: it has not failed, and its caller still waits."""
        if self.error is None:
            try:
                self._require()
            except MlserveError as error:
                self.error = error
        return self.error is None

    @property
    def is_on_ladder(self) -> bool:
        """Whether its rows may run on more than one version."""
        return hasattr(self.runner, "climb")

    @property
    def has_climbed(self) -> bool | None:
        """Whether a row went beyond the first rung; None for a model that is on no ladder."""
        return any(row.place for row in self.rungs) if self.rungs else None

    @property
    def rows(self) -> int:
        """The first size of its inputs; 1 if they have none."""
        return max((a.shape[0] for a in self.inputs.values() if a.ndim), default=1)

    def enter(self, stage: int) -> None:
        """Begin a stage."""
        self._stage = stage
        self.caller.enter(stage)

    def _attempt(self, name: str, stage: int, do: Callable[[], None]) -> None:
        """Do that, timed by that name, unless the work has failed or is no longer wanted."""
        if self.error is not None:
            return
        started = time.monotonic()
        self._note_start(stage, started)
        try:
            self._require()
            self.enter(stage)
            do()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the call is awaited
            # BaseException, as a panic in a runtime written in Rust is not an Exception. The slot,
            # the lease and the caller must be released all the same.
            self.error = as_exception(error)
        finally:
            spent = getattr(self.times, name) + time.monotonic() - started
            setattr(self.times, name, spent)

    def _note_start(self, stage: int, started: float) -> None:
        """Note when a stage began; a run that is made again began with the first."""
        times = self.times
        if stage == _DECODE:
            times.decode_at = started
        elif stage == _ENCODE:
            times.encode_at = started
        elif not times.run_at:
            times.run_at = started

    def _require(self) -> None:
        """Raise if the answer is no longer wanted: the deadline passed or the client left."""
        self.deadline.require(self.doing)
        if self.caller.has_left():
            raise Unavailable("the client disconnected")

    def _bring_forward(self, deadline: Deadline) -> None:
        if deadline.expires_at < self.deadline.expires_at:
            self.deadline = deadline
            self.caller.bring_forward(self)


def run_works(works: Sequence[Work[Any]]) -> list[int]:
    """Do each of the works; return the number of works in each batch that was run."""
    for work in works:
        work.decode()
        work.require_time()
    sizes = [_run(group) for group in _alike(work for work in works if work.error is None)]
    for work in works:
        work.encode()
    return [size for size in sizes if size]


def _alike(works: Iterable[Work[Any]]) -> list[list[Work[Any]]]:
    """Group the works by signature, dtypes and all sizes but the first."""
    groups: dict[object, list[Work[Any]]] = {}
    for work in works:
        groups.setdefault(_form(work), []).append(work)
    return list(groups.values())


def _form(work: Work[Any]) -> object:
    arrays = sorted(work.inputs.items())
    rows = {array.shape[:1] for _, array in arrays}
    if work.signature is None or not work.signature.has_rows or len(rows) != 1 or () in rows:
        return work
    return work.signature.name, tuple((name, a.dtype, a.shape[1:]) for name, a in arrays)


def _run(works: Sequence[Work[Any]]) -> int:
    """Run the works; return how many still had to run, as some may have been given up meanwhile."""
    wanted = [work for work in works if work.is_wanted()]
    is_done = len(wanted) > 1 and _run_as_one(wanted)
    for work in () if is_done else wanted:
        work.run()
    return len(wanted)


def _run_as_one(works: Sequence[Work[Any]]) -> bool:
    """Run the works as one batch; return False on any error, and each must then run alone."""
    started = time.monotonic()
    rows = [work.rows for work in works]
    for work in works:
        work.enter(_RUN)
        work.times.run_at = started
    try:
        climbed = _climb(works)
        parts = _split(climbed.outputs, rows)
    except BaseException:  # noqa: BLE001 - alone, each gets its own error, or none
        return False
    finally:
        for work in works:
            work.times.run = time.monotonic() - started
    served, times = works[0].served, tuple(work.times for work in works)
    execution = Execution(served.model, served.version, sum(rows), times)
    left = iter(climbed.rows)
    for work, part, count in zip(works, parts, rows, strict=True):
        work.outputs, work.execution = part, execution
        work.take_rungs(tuple(islice(left, count)), climbed.needed)
    return True


def _climb(works: Sequence[Work[Any]]) -> Climb:
    first = works[0]
    assert first.signature is not None
    inputs = {name: np.concatenate([work.inputs[name] for work in works]) for name in first.inputs}
    # A climb delays the whole batch, so that its earliest deadline decides whether there is time.
    choose = min if first.is_on_ladder else max
    due = choose((work.deadline for work in works), key=lambda deadline: deadline.expires_at)
    limit_threads(first.runner, first.threads)
    only_rungs = {work.only_rung for work in works}
    only_rung = only_rungs.pop() if len(only_rungs) == 1 else None
    return climb(first.runner, first.signature.name, inputs, due, only_rung=only_rung)


def _split(outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """Split the outputs into those of each work, which has that many rows."""
    ends = np.cumsum([0, *rows])
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != ends[-1]:
            raise InferenceFailed(
                f"output {name!r} has shape {list(array.shape)} for a batch of {ends[-1]}",
                hint="this model cannot be batched: serve it with --max-batch-size 1",
            )
    return [
        {name: array[start:end] for name, array in outputs.items()} for start, end in pairwise(ends)
    ]
