"""Send all targets the same rows of tables, or the same request, and hand back their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any

from mlserve.client import Client
from mlserve.client.outputs import Outputs
from mlserve.compare.asking import WARM_UPS, Served, each_in_turn
from mlserve.errors import MlserveError, Unavailable, UsageError
from mlserve.rows.asking import (
    DEFAULT_BATCH,
    OF_ROWS,
    Asking,
    Outcome,
    ReadyRow,
    RowAnswer,
    RowError,
)
from mlserve.rows.columns import (
    has_dependent_rows,
    named_columns,
    outputs_of,
    signature_of,
    whole_outputs,
)
from mlserve.rows.files import Source, read_file, require_file
from mlserve.rows.kinds import FileKind, is_request
from mlserve.rows.objects import parse_json
from mlserve.rows.reading import RowReader
from mlserve.rows.requests import JsonRequest, parse_request
from mlserve.rows.table import BadRow, Place
from mlserve.rows.writers import rows_of
from mlserve.tensors import Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class TableQuestion:
    """The tables to ask about; or the `request` that the only file holds.

    `signature` and `outputs` None take what `mlserve predict` takes.
    """

    sources: Sequence[Source]
    signature: str | None = None
    outputs: Sequence[str] | None = None
    request: JsonRequest | None = None

    @property
    def files(self) -> list[str]:
        return [source.name for source in self.sources]


def question_in(
    files: Sequence[tuple[str, FileKind]], signature: str | None, outputs: Sequence[str] | None
) -> TableQuestion:
    """Return the question in these files, as `mlserve predict` reads them.

    Raises UsageError for a file that is missing, or JSON that is not readable.
    """
    for name, _ in files:
        require_file(name)
    if [kind for _, kind in files] != [FileKind.JSON]:
        return TableQuestion([Source(name, kind) for name, kind in files], signature, outputs)
    [(name, kind)] = files
    data = parse_json(name, read_file(name))
    sources = [Source(name, kind, parsed=data)]
    if not is_request(data):
        return TableQuestion(sources, signature, outputs)
    found = parse_request(name, data)
    return TableQuestion(sources, signature or found.signature, outputs or found.outputs, found)


@dataclass(frozen=True, slots=True)
class AskedTarget:
    """A target that is asked about rows: how, and which columns become which inputs."""

    name: str
    asking: Asking
    signature: Signature
    columns: Mapping[str, tuple[str, ...]]
    specs: Sequence[TensorSpec]
    """The outputs that are compared."""

    @classmethod
    def of(
        cls, served: Served, client: Client, question: TableQuestion, timeout: float
    ) -> AskedTarget:
        """Read the target's metadata. Raises its errors, and those of names it does not have."""
        name, signature = served.target.name, question.signature
        with _named(name):
            metadata = client.metadata(signature=signature, timeout=timeout)
            found = signature_of(metadata, signature)
            specs = outputs_of(found, question.outputs)
        size = 1 if has_dependent_rows(metadata) else DEFAULT_BATCH
        whole = whole_outputs(specs)
        asking = Asking(client, size, timeout, 1, signature, question.outputs, whole)
        return cls(name, asking, found, named_columns(metadata, found), specs)

    def reader(self, source: Source, tell: Callable[[str], None]) -> RowReader:
        """Return what reads the file as this target's inputs; `tell` receives notes about it."""
        return RowReader(
            [source], self.signature, self.columns, lambda text: tell(f"{self.name}: {text}")
        )

    def outcomes(self, rows: Sequence[ReadyRow | BadRow]) -> list[Outcome]:
        """Return the outcome of each row. Raises what is wrong with the call, not with a row."""
        found: list[Outcome] = []
        with _named(self.name):
            try:
                for outcome in self.asking.outcomes(iter(rows)):
                    found.append(outcome)  # noqa: PERF402  those before an error count
            except Unavailable as error:
                found += [RowError(row.place, error) for row in rows[len(found) :]]
        return found

    def infer(self, request: JsonRequest) -> Outputs | MlserveError:
        """Return the answer to a whole request, or the error."""
        asking = self.asking
        try:
            answer = asking.client.infer(
                request.inputs(self.signature),
                signature=asking.signature,
                outputs=asking.outputs,
                timeout=asking.timeout,
            )
        except MlserveError as error:
            return error
        asking.milliseconds.append(answer.timings.total)
        return answer


@dataclass(frozen=True, slots=True)
class TablePanel:
    """The targets, asked about a batch of rows in turn; `tell` receives notes about the files."""

    targets: Sequence[AskedTarget]
    question: TableQuestion
    tell: Callable[[str], None]

    @classmethod
    def of(
        cls,
        servers: Sequence[Served],
        clients: Sequence[Client],
        question: TableQuestion,
        timeout: float,
        tell: Callable[[str], None],
    ) -> TablePanel:
        """Read every target's metadata. Raises its errors; `timeout` applies to each request."""
        pairs = zip(servers, clients, strict=True)
        asked = [AskedTarget.of(server, client, question, timeout) for server, client in pairs]
        return cls(asked, question, _once(tell))

    def rows(self, runs: int) -> Iterator[tuple[int, list[Outcome]]]:
        """Yield each row's run, from 0, and its outcome of every target, in `runs` rounds.

        Another target is asked first each time. Raises UsageError for a file that a target cannot
        take, and a target's error if it has not answered yet.
        """
        self._warm_up()
        for run in range(runs):
            for number, calls in enumerate(self._calls()):
                answers = each_in_turn(calls, run + number, lambda call: call())
                for outcomes in zip(*_by_row(answers, self.targets, self.question), strict=True):
                    yield run, list(outcomes)

    def _warm_up(self) -> None:
        for calls in islice(self._calls(), 1):
            for target, call in zip(self.targets, calls, strict=True):
                for _ in range(WARM_UPS):
                    _require_answer(target, call())
        for target in self.targets:
            target.asking.milliseconds.clear()

    def _calls(self) -> Iterator[list[Callable[[], Any]]]:
        """Yield, for each batch or for the request, what asks each of the targets."""
        request = self.question.request
        if request is not None:
            yield [partial(target.infer, request) for target in self.targets]
            return
        for source in self.question.sources:
            for batch in self._batches(source):
                yield [
                    partial(target.outcomes, rows)
                    for target, rows in zip(self.targets, batch, strict=True)
                ]

    def _batches(self, source: Source) -> Iterator[list[list[ReadyRow | BadRow]]]:
        """Yield the next rows of a file as each target takes them, as many as all of them take."""
        with ExitStack() as stack:
            readers = [target.reader(source, self.tell) for target in self.targets]
            rows = [
                _opened(reader, t, stack) for reader, t in zip(readers, self.targets, strict=True)
            ]
            while True:
                size = min(
                    min(target.asking.size, reader.most_rows or DEFAULT_BATCH)
                    for target, reader in zip(self.targets, readers, strict=True)
                )
                batch = []
                for target, of_target in zip(self.targets, rows, strict=True):
                    with _named(target.name):
                        batch.append(list(islice(of_target, size)))
                require_same_places(batch, self.targets)
                if not batch[0]:
                    return
                yield batch


def _opened(
    reader: RowReader, target: AskedTarget, stack: ExitStack
) -> Iterator[ReadyRow | BadRow]:
    """Return the rows; the first has been read, so that the reader knows what a request takes."""
    rows = stack.enter_context(closing(reader.rows()))
    with _named(target.name):
        first = list(islice(rows, 1))
    return chain(first, rows)


def _by_row(
    answers: Sequence[Any], targets: Sequence[AskedTarget], question: TableQuestion
) -> Sequence[Sequence[Outcome]]:
    """Return each target's outcomes by row.

    The answers to a request are rows if those of all targets have the same number of them;
    otherwise they are compared as a whole, as row 0.
    """
    if question.request is None:
        return answers
    [file] = question.files
    rows = [
        None if isinstance(answer, MlserveError) else rows_of(answer, target.specs)
        for answer, target in zip(answers, targets, strict=True)
    ]
    counts = {None if of_target is None else len(of_target) for of_target in rows}
    if len(counts) == 1 and all(counts):
        return [
            [replace(row, place=replace(row.place, file=file)) for row in of_target or ()]
            for of_target in rows
        ]
    whole = Place(file, 0)
    return [
        [
            RowError(whole, answer)
            if isinstance(answer, MlserveError)
            else RowAnswer(whole, dict(answer), answer)
        ]
        for answer in answers
    ]


def _require_answer(target: AskedTarget, answer: Any) -> None:
    """Raise the error of a target that is not the fault of a row."""
    for outcome in answer if isinstance(answer, list) else [answer]:
        error = outcome.error if isinstance(outcome, RowError) else outcome
        if isinstance(error, MlserveError) and not isinstance(error, OF_ROWS):
            with _named(target.name):
                raise error


def require_same_places(
    batch: Sequence[Sequence[ReadyRow | BadRow]], targets: Sequence[AskedTarget]
) -> None:
    """Raise UsageError unless every target has the same rows of a file in its batch."""
    places = [[row.place for row in rows] for rows in batch]
    for target, of_target in zip(targets, places, strict=True):
        if of_target != places[0]:
            file = (places[0] or of_target)[0].file
            raise UsageError(
                f"{targets[0].name} and {target.name} do not read the same rows in {file}: only "
                "one of them takes its first line for the names of columns",
                hint="give the file a header that names the columns of the model's inputs",
            )


@contextmanager
def _named(target: str) -> Iterator[None]:
    """Put the target's name in front of an error's message that does not have it."""
    try:
        yield
    except MlserveError as error:
        if target not in error.message:
            error.message = f"{target}: {error.message}"
        raise


def _once(tell: Callable[[str], None]) -> Callable[[str], None]:
    told: set[str] = set()

    def tell_once(text: str) -> None:
        if text not in told:
            told.add(text)
            tell(text)

    return tell_once
