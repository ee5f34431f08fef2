"""`mlserve predict rows.csv`: ask about each row of tables, and write each row's answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from mlserve.background import run_within
from mlserve.cli.answers import PredictFormat, PredictOptions, Warnings, writer
from mlserve.cli.output import StatusLine, note
from mlserve.cli.tensors import OneRequest, request_in
from mlserve.errors import (
    ExitCode,
    InferenceFailed,
    MlserveError,
    UsageError,
    counted,
    readable,
)
from mlserve.launch.signals import Interrupts
from mlserve.percentiles import Percentiles
from mlserve.rows.asking import DEFAULT_BATCH, MOST_VALUES, Asking, Outcome, ReadyRow, RowError
from mlserve.rows.columns import (
    has_dependent_rows,
    named_columns,
    outputs_of,
    signature_of,
    whole_outputs,
)
from mlserve.rows.files import Source, changed_at, file_name, read_file, require_file
from mlserve.rows.kinds import STDIN, FileKind, Stdin, is_request
from mlserve.rows.objects import parse_json
from mlserve.rows.reading import RowReader
from mlserve.rows.requests import parse_request
from mlserve.rows.resuming import Key, key_of, rows_in_jsonl, rows_in_table
from mlserve.rows.writers import Layout, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from mlserve.client import Client, ModelMetadata
    from mlserve.client.outputs import Outputs
    from mlserve.deadline import Deadline
    from mlserve.rows.table import BadRow, Place

_MOST_TOLD = 20
"""Errors of rows that are told in full on stderr; an output with errors in it has them all."""
_PER_SECOND = 10
"""How often the line of progress is drawn."""


def call_on_tables(
    files: Sequence[tuple[str, FileKind]], options: PredictOptions, deadline: Deadline
) -> Tables | OneRequest:
    """Return the question in these files; one JSON file may be a whole request.

    Raises UsageError for a single file that cannot be read, or options that do not fit.
    """
    if len(files) > 1:
        return Tables([Source(name, kind) for name, kind in files], options)
    [(name, kind)] = files
    if kind is FileKind.JSON:
        data = run_within(deadline, f"reading {name}", lambda: read_file(name))
        return _of_json(Source(name, kind, parsed=parse_json(name, data)), options)
    run_within(deadline, f"looking for {name}", lambda: require_file(name))
    return Tables([Source(name, kind)], options)


def call_on_stdin(
    stdin: Stdin, kind: FileKind, options: PredictOptions, deadline: Deadline
) -> Tables | OneRequest:
    """Return the question on standard input. Raises UsageError as `call_on_tables` does."""
    if kind is not FileKind.JSON:
        return Tables([Source(STDIN, kind, stdin)], options)
    data = run_within(deadline, "reading standard input", stdin.readall)
    parsed = parse_json(file_name(STDIN), data)
    return _of_json(Source(STDIN, kind, parsed=parsed), options)


def _of_json(source: Source, options: PredictOptions) -> Tables | OneRequest:
    if is_request(source.parsed):
        return request_in(parse_request(file_name(source.name), source.parsed), options)
    return Tables([source], options)


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables to ask about, row by row."""

    sources: Sequence[Source]
    options: PredictOptions

    def __post_init__(self) -> None:
        self.options.refuse("top_k expect", "tables", "it goes with image files")

    def ask(self, client: Client, deadline: Deadline, *, is_random: bool) -> int:
        """Ask about each row, write the answers, and return the exit code of the first error.

        The deadline is that of the model's metadata; each request gets as much time from when it is
        sent. Raises the errors that end the run: of the only file, and of the server.
        """
        metadata = client.metadata(signature=self.options.signature, timeout=deadline)
        signature = signature_of(metadata, self.options.signature)
        layout = Layout(outputs_of(signature, self.options.outputs), has_file=len(self.sources) > 1)
        done = self._done(layout)
        named = named_columns(metadata, signature)
        reader = RowReader(self.sources, signature, named, note)
        with closing(reader.rows()) as rows:
            first = next(rows, None)  # what is wrong with the only file is found before any write
            asking = Asking(
                client,
                reader.most_rows or self._batch(metadata),
                deadline.timeout,
                self.options.parallel,
                self.options.signature,
                self.options.outputs,
                whole_outputs(layout.specs),
                most_values=None if self.options.batch else MOST_VALUES,
                check_version=VersionCheck(client, self.options.signature, metadata, deadline),
            )
            start = () if first is None else (first,)
            asked = done.without(chain(start, rows), has_file=layout.has_file)
            with self.options.sink() as sink:
                out = writer(self.options.format, sink, layout, has_header=not done.has_header)
                goes_on = self.options.is_resumable
                run = Run(asking, out, done, is_random=is_random, goes_on=goes_on)
                progress = StatusLine() if not sink.is_terminal else None
                return run.over(asked, progress)

    def _batch(self, metadata: ModelMetadata) -> int:
        if self.options.batch is None and has_dependent_rows(metadata):
            note(
                "note: a row's answer depends on the rows beside it in the request, so each row is "
                "asked about alone; --batch N asks about N together"
            )
            return 1
        return self.options.batch or DEFAULT_BATCH

    def _done(self, layout: Layout) -> Done:
        path = self.options.output_file
        if not self.options.resume or path is None or not path.is_file():
            return Done()
        self._tell_of_newer(path)
        if self.options.format is PredictFormat.JSONL:
            outputs = [spec.name for spec in layout.specs]
            return Done(rows_in_jsonl(path, outputs, has_file=layout.has_file))
        delimiter = "," if self.options.format is PredictFormat.CSV else "\t"
        return Done(rows_in_table(path, layout.header, delimiter), path.stat().st_size > 0)

    def _tell_of_newer(self, answers: Path) -> None:
        """Tell of files that were written after the answers: a row may have moved in them."""
        for source in self.sources:
            if changed_at(source.name) > answers.stat().st_mtime:
                note(
                    f"note: {readable(source.name)} has changed since {readable(str(answers))} was "
                    "written; each answer there stays with the number of its row"
                )


@dataclass(frozen=True, slots=True)
class VersionCheck:
    """Sees to it that every version that answers takes what the columns were assigned by."""

    client: Client
    signature: str | None
    planned: ModelMetadata
    deadline: Deadline

    def __call__(self, answer: Outputs, place: Place) -> None:
        """Raise UsageError if the columns or the inputs of that version are other ones.

        A server that tells no version, as TensorFlow Serving over REST, cannot be checked.
        """
        if None in (answer.version, self.planned.version) or answer.version == self.planned.version:
            return
        now = self.client.metadata(signature=self.signature, timeout=self.deadline.timeout)
        if self._taken(now) != self._taken(self.planned):
            raise UsageError(
                f"version {answer.version} of {answer.model}, which answers now, takes other "
                f"columns or inputs than version {self.planned.version}",
                hint="see them with mlserve metadata",
            )
        note(f"note: version {answer.version} of {answer.model} answers from row {place.number} on")

    def _taken(self, metadata: ModelMetadata) -> object:
        signature = signature_of(metadata, self.signature)
        return signature, named_columns(metadata, signature)


@dataclass(slots=True)
class Done:
    """The rows that the output file has answers for; `skipped` counts those met again."""

    keys: set[Key] = field(default_factory=set)
    has_header: bool = False
    skipped: int = 0

    def without(
        self, rows: Iterable[ReadyRow | BadRow], *, has_file: bool
    ) -> Iterator[ReadyRow | BadRow]:
        """Yield the rows without an answer."""
        for row in rows:
            if key_of(row.place, has_file=has_file) in self.keys:
                self.skipped += 1
            else:
                yield row


class Run:
    """One run over rows: writes each outcome, tells errors, and sums up at the end.

    `goes_on`: what it has written can be gone on with.
    """

    def __init__(
        self, asking: Asking, out: Writer, done: Done, *, is_random: bool, goes_on: bool
    ) -> None:
        self._goes_on = goes_on
        self._asking = asking
        self._out = out
        self._done = done
        self._warnings = Warnings(is_random=is_random)
        self._rows = self._errors = self._exit_code = 0
        self._is_whole = self._is_written = False
        self._began = time.monotonic()
        self._drawn = self._began

    def over(self, rows: Iterator[ReadyRow | BadRow], progress: StatusLine | None) -> int:
        """Ask about the rows, and return the exit code of the first error, else 0.

        Raises what ends the run: then, too, what has been answered is written. So it is after
        Ctrl-C or SIGTERM, unless a second one comes while it is written.
        """
        with Interrupts.watched() as interrupts:
            try:
                return self._over(rows, progress, interrupts)
            except KeyboardInterrupt:
                if not self._rows or self._is_written:
                    raise
                self._finish(interrupts)
                self._tell_interrupted()
                return int(ExitCode.INTERRUPTED)

    def _over(
        self,
        rows: Iterator[ReadyRow | BadRow],
        progress: StatusLine | None,
        interrupts: Interrupts,
    ) -> int:
        try:
            for outcome in self._asking.outcomes(rows):
                if progress is not None:
                    self._draw(progress)
                self._take(outcome, progress)
        except MlserveError as error:
            if self._rows:
                self._finish(interrupts)
            if self._goes_on and not self._asking.is_spoiled:
                first = f"{error.hint}; then " if error.hint else ""
                error.hint = f"{first}go on with the same command and {{resume}}"
            raise
        else:
            self._is_whole = True
            self._finish(interrupts)
        finally:
            if progress is not None:
                progress.clear()
            if self._rows or self._is_whole:
                self._sum_up()
        return self._exit_code

    def _finish(self, interrupts: Interrupts) -> None:
        self._is_written = True
        with interrupts.held(once=True):
            self._out.finish()

    def _tell_interrupted(self) -> None:
        said = f"interrupted after {counted(self._rows, 'row')}; the others have no answer"
        go_on = "go on with the same command and --resume"
        if not self._goes_on:
            go_on = f"with --output-file and a name in .jsonl or .csv, a stopped run can {go_on}"
        note(f"{said}\nhint: {go_on}")

    def _take(self, outcome: Outcome, progress: StatusLine | None) -> None:
        """Write the outcome, and count it once it is written."""
        if not isinstance(outcome, RowError):
            try:
                self._out.write(outcome)
            except InferenceFailed as error:
                outcome = RowError(outcome.place, error)
            else:
                self._rows += 1
                self._warnings.look(outcome.server)
                return
        self._out.write(outcome)
        self._rows += 1
        self._errors += 1
        self._exit_code = self._exit_code or int(outcome.error.exit_code)
        if not self._out.takes_errors and self._errors <= _MOST_TOLD:
            if progress is not None:
                progress.clear()
            _tell(outcome)

    def _draw(self, progress: StatusLine) -> None:
        now = time.monotonic()
        if now - self._drawn > 1 / _PER_SECOND:
            self._drawn = now
            progress.show(self._counts())

    def _counts(self) -> str:
        seconds = time.monotonic() - self._began
        return (
            f"{counted(self._rows, 'row')}, {counted(self._errors, 'error')}, "
            f"{self._rows / max(seconds, 1e-9):.0f} rows/s"
        )

    def _sum_up(self) -> None:
        """Tell what happened on stderr, if it was about more than one row."""
        more = self._errors - _MOST_TOLD
        if more > 0 and not self._out.takes_errors:
            note(f"{counted(more, 'more error')}; --output jsonl has the error of every row")
        skipped = (
            f" ({counted(self._done.skipped, 'row')} had answers)" if self._done.skipped else ""
        )
        if self._rows == 1 and not skipped:
            return
        requests = _requests(self._asking.milliseconds)
        note(f"{self._counts()}{skipped}{requests}")
        if self._is_whole and len(self._done.keys) > self._done.skipped and not self._exit_code:
            missing = len(self._done.keys) - self._done.skipped
            note(f"warning: the output file has {counted(missing, 'row')} that the input does not")


def _tell(outcome: RowError) -> None:
    where, message = str(outcome.place), outcome.error.message
    is_named = not outcome.place.number and message.startswith(where)
    note(f"error: {message}" if is_named else f"error: {where}: {message}")
    if outcome.error.hint:
        note(f"hint: {outcome.error.hint}")


def _requests(milliseconds: Sequence[float]) -> str:
    """Return how many requests there were, and how long they took; nothing for none."""
    times = Percentiles.from_values(milliseconds)
    if times is None:
        return ""
    requests = counted(len(milliseconds), "request")
    return f"; {requests}, p50 {times.p50:.1f} ms, p99 {times.p99:.1f} ms"
