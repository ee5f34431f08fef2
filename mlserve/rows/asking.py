"""Send rows in batches, several at once, and hand back each row's own answer or error, in order.

A batch that the server or the model refuses is halved until the rows at fault stand alone, so one
bad row takes no other down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypedDict

from mlserve.errors import (
    InferenceFailed,
    InputTooLarge,
    InvalidInput,
    MlserveError,
    PluginError,
    Unavailable,
    UsageError,
    counted,
)
from mlserve.rows.table import BadRow, Place

if TYPE_CHECKING:
    from mlserve.client import Client
    from mlserve.client.outputs import Outputs

DEFAULT_BATCH = 128
"""Rows of a request: an eighth of the server's default `--max-batch-length`."""
MOST_VALUES = 2**20
"""Values of a request with long rows: one takes up to a hundred bytes on its way to JSON."""
OF_ROWS = (InvalidInput, InferenceFailed)
"""Errors that may be the fault of one row."""
_FOR_ALL = (Unavailable, PluginError, UsageError)
"""Errors that every other row would get too, if they are not of one row."""


@dataclass(frozen=True, slots=True)
class ReadyRow:
    """A row as the model takes it: its element of each input, by name."""

    place: Place
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """A row's element of each output, by name; `server` is the answer that it came with."""

    place: Place
    outputs: Mapping[str, Any]
    server: Outputs


@dataclass(frozen=True, slots=True)
class RowError:
    """The row was not answered, and why."""

    place: Place
    error: MlserveError


Outcome = RowAnswer | RowError


@dataclass(slots=True)
class Asking:
    """How rows are asked about: what to ask for, at most how many rows a request.

    `size` shrinks when the server takes no request of that size. A request has about `most_values`
    values at most, unless one row has more; None is any number. `whole` are the outputs that are
    not by rows, as far as that is known. `milliseconds` are the times of the requests that were
    answered. `check_version` is called with a version's first answer and the place of its first
    row, before it is given out; it may raise. `is_spoiled`: answers that turned out to be wrong
    have been given out.
    """

    client: Client
    size: int
    timeout: float
    parallel: int | None = None
    signature: str | None = None
    outputs: Sequence[str] | None = None
    whole: set[str] = field(default_factory=set)
    milliseconds: list[float] = field(default_factory=list)
    check_version: Callable[[Outputs, Place], None] | None = None
    is_spoiled: bool = False
    most_values: int | None = None
    _versions: set[int | None] = field(default_factory=set)
    _ranks: dict[str, int] = field(default_factory=dict)

    def outcomes(self, rows: Iterator[ReadyRow | BadRow]) -> Iterator[Outcome]:
        """Yield the outcome of each row, in their order. Raises what no other row would escape."""
        batches = self._batches(rows)
        for batch in batches:
            if batch.ready:
                yield from self._answered(chain([batch], batches))
            else:
                yield from _merged(batch, iter(()))

    def _answered(self, batches: Iterator[_Batch]) -> Iterator[Outcome]:
        """Yield the outcomes of batches up to the first without a row to send, and of that one.

        The errors of its rows are given out before more is read: they would pile up in memory.
        """
        sent: deque[_Batch] = deque()

        def requests() -> Iterator[Mapping[str, Any]]:
            for batch in batches:
                sent.append(batch)
                if not batch.ready:
                    return
                yield batch.inputs()

        answers = self.client.infer_many(
            requests(), parallel=self.parallel, timeout=self.timeout, **self._question()
        )
        for answer in answers:
            batch = sent.popleft()
            yield from _merged(batch, self._settled(batch.ready, answer))
        for batch in sent:
            yield from _merged(batch, iter(()))

    def _batches(self, rows: Iterator[ReadyRow | BadRow]) -> Iterator[_Batch]:
        """Yield the rows in batches; rows that are not sent go with those around them.

        With one request in flight a batch has no more rows than a request, so that whoever writes
        a stream in step with the answers is told of a bad row at once.
        """
        batch = _Batch()
        for row in rows:
            batch.add(row)
            most = self.size if self.parallel == 1 else 2 * DEFAULT_BATCH + self.size
            if len(batch.ready) >= self.size or len(batch.rows) >= most or self._is_full(batch):
                yield batch
                batch = _Batch()
        if batch.rows:
            yield batch

    def _is_full(self, batch: _Batch) -> bool:
        """Return whether a row like the last one would be too much for the batch."""
        if self.most_values is None or not batch.ready:
            return False
        return (len(batch.ready) + 1) * _values_of(batch.ready[-1]) > self.most_values

    def _settled(
        self, rows: Sequence[ReadyRow], answer: Outputs | MlserveError
    ) -> Iterator[Outcome]:
        """Yield each row's share of the answer, or ask again about the halves."""
        if isinstance(answer, MlserveError):
            yield from self._parts(rows, answer)
        elif (misfit := self._misfit(rows, answer)) is not None:
            self.whole.add(misfit)
            self.size = 1
            for row in rows:
                yield from self._settled([row], self._again([row]))
        else:
            self.milliseconds.append(answer.timings.total)
            if answer.version not in self._versions and self.check_version is not None:
                self.check_version(answer, rows[0].place)
            self._versions.add(answer.version)
            yield from _shares(rows, answer)

    def _parts(self, rows: Sequence[ReadyRow], error: MlserveError) -> Iterator[Outcome]:
        may_be_of_one = isinstance(error, OF_ROWS)
        if isinstance(error, _FOR_ALL) and not may_be_of_one:
            raise error
        if len(rows) == 1 or not may_be_of_one:
            yield from (RowError(row.place, error) for row in rows)
            return
        middle = (len(rows) + 1) // 2
        if isinstance(error, InputTooLarge):
            self.size = min(self.size, middle)
        for part in (rows[:middle], rows[middle:]):
            yield from self._settled(part, self._again(part))

    def _again(self, rows: Sequence[ReadyRow]) -> Outputs | MlserveError:
        try:
            return self.client.infer(
                inputs_of(rows),
                timeout=self.timeout,
                retries=self.client.retries.for_many(),
                **self._question(),
            )
        except MlserveError as error:
            return error

    def _misfit(self, rows: Sequence[ReadyRow], answer: Mapping[str, Any]) -> str | None:
        """Return an output that cannot be told apart by rows; None if all can, or for one row.

        Raises InferenceFailed if it was by rows in an earlier answer, then by chance.
        """
        count = len(rows)
        for name, value in answer.items():
            size, rank = length_of(value), rank_of(value)
            if size == count and name not in self.whole:
                continue
            if self._ranks.get(name) == rank:
                self.is_spoiled = True
                raise InferenceFailed(
                    f"the output {name!r} has {size} rows for {counted(count, 'row')}",
                    hint="the answers before are wrong: ask again, with {batch 1}",
                )
            if count > 1:
                return name
        if count > 1:
            self._ranks.update((name, rank_of(value)) for name, value in answer.items())
        return None

    def _question(self) -> _Question:
        return {"signature": self.signature, "outputs": self.outputs}


class _Question(TypedDict):
    """What every request asks for."""

    signature: str | None
    outputs: Sequence[str] | None


@dataclass(slots=True)
class _Batch:
    """Rows in their order; `ready` are those that are sent."""

    rows: list[ReadyRow | BadRow] = field(default_factory=list)
    ready: list[ReadyRow] = field(default_factory=list)

    def add(self, row: ReadyRow | BadRow) -> None:
        self.rows.append(row)
        if isinstance(row, ReadyRow):
            self.ready.append(row)

    def inputs(self) -> dict[str, Any]:
        return inputs_of(self.ready)


def inputs_of(rows: Sequence[ReadyRow]) -> dict[str, Any]:
    """Return the inputs of one request about these rows, at least one."""
    return {name: _stacked([row.inputs[name] for row in rows]) for name in rows[0].inputs}


def _stacked(values: list[Any]) -> Any:
    if not hasattr(values[0], "dtype"):
        return values
    from mlserve.rows.arrays import stacked  # the rows are numpy's already

    return stacked(values)


def _merged(batch: _Batch, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes of a batch's rows in order, with the errors of the rows not sent."""
    for row in batch.rows:
        yield RowError(row.place, row.error) if isinstance(row, BadRow) else next(outcomes)


def _shares(rows: Sequence[ReadyRow], answer: Outputs) -> Iterator[RowAnswer]:
    for at, row in enumerate(rows):
        values = {
            name: value[at] if length_of(value) == len(rows) else value
            for name, value in answer.items()
        }
        yield RowAnswer(row.place, values, answer)


def length_of(value: Any) -> int | None:
    """Return the first dimension of an output; None for a single value."""
    if isinstance(value, str | bytes):
        return None
    with suppress(TypeError):  # a number, or an array of no dimension
        return len(value)
    return None


def _values_of(row: ReadyRow) -> int:
    """Return how many values a row has, where its lists are even."""
    return sum(map(_count, row.inputs.values()))


def _count(value: Any) -> int:
    if hasattr(value, "size"):
        return int(value.size)
    count = 1
    while isinstance(value, list):
        count *= len(value)
        value = value[0] if value else None
    return count


def rank_of(value: Any) -> int:
    """Return how deep the lists are, or the rank of an array."""
    if hasattr(value, "ndim"):
        return int(value.ndim)
    rank = 0
    while isinstance(value, list):
        rank += 1
        value = value[0] if value else None
    return rank
