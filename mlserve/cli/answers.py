"""Where the answers of `mlserve predict` go, and in which format: standard output or a new file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from mlserve.cli.output import note, print_json
from mlserve.client.answers import has_drifted
from mlserve.errors import UsageError, escaped, readable

if TYPE_CHECKING:
    from mlserve.client import Prediction
    from mlserve.client.outputs import Outputs
    from mlserve.rows.writers import Layout, Writer

RANDOM_WEIGHTS_WARNING = (
    "warning: the model has random weights, its answers mean nothing "
    "(mlserve export without --weights random gives it real ones)"
)


DRIFT_WARNING = (
    "warning: the model does not give the answers here that it gave where it was exported "
    "(mlserve status says how they differ)"
)


UNCERTAIN = (
    "uncertain: there was no time for the next rung of the ladder, which may give another label "
    "(--timeout gives it more)"
)


class Warnings:
    """Warns on stderr, once for each reason, of answers that cannot be relied on.

    `is_random`: the server is known to serve random weights, even if its answers do not say so.
    """

    def __init__(self, *, is_random: bool) -> None:
        self._is_random = is_random
        self._told: set[str] = set()

    def look(self, answer: Prediction | Outputs, name: str = "") -> None:
        """Warn of what the answer says about itself; of each that is uncertain, by its `name`."""
        if self._is_random or answer.has_random_weights:
            self._warn(RANDOM_WEIGHTS_WARNING)
        if has_drifted(answer.served_by):
            self._warn(DRIFT_WARNING)
        if answer.is_uncertain:
            self._warn(
                f"warning: {readable(name)}: {UNCERTAIN}" if name else f"warning: {UNCERTAIN}"
            )

    def _warn(self, text: str) -> None:
        if text not in self._told:
            note(text)
        self._told.add(text)


class PredictFormat(StrEnum):
    """Output formats of the answers."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    NPZ = "npz"


_BY_SUFFIX = {
    ".tsv": PredictFormat.TEXT,
    ".txt": PredictFormat.TEXT,
    ".ndjson": PredictFormat.JSONL,
}
_RESUMABLE = (PredictFormat.CSV, PredictFormat.JSONL, PredictFormat.TEXT)


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What to ask for and where the answers go: options of `predict`, None if not given."""

    signature: str | None = None
    outputs: tuple[str, ...] | None = None
    batch: int | None = None
    parallel: int | None = None
    output: PredictFormat | None = None
    output_file: Path | None = None
    resume: bool = False
    top_k: int | None = None
    expect: str | None = None

    @property
    def format(self) -> PredictFormat:
        """Return the output format: as given, else by the output file's suffix, else text."""
        if self.output is not None or self.output_file is None:
            return self.output or PredictFormat.TEXT
        suffix = self.output_file.suffix.lower()
        by_name = {f".{member}": member for member in PredictFormat} | _BY_SUFFIX
        return by_name.get(suffix, PredictFormat.TEXT)

    @property
    def is_resumable(self) -> bool:
        """Return whether `--resume` can go on with what is written."""
        return self.output_file is not None and self.format in _RESUMABLE

    def refuse(self, names: str, what: str, hint: str) -> None:
        """Raise UsageError if one of these options, separated by spaces, is given."""
        for name in names.split():
            if getattr(self, name):
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} does not go with {what}", hint=hint)

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.resume and self.output_file is None:
            raise UsageError(
                "--resume needs the file to go on with", hint="give --output-file FILE"
            )
        if self.resume and not self.is_resumable:
            raise UsageError(
                f"--resume cannot go on with {self.format}, which is written at the end",
                hint="take --output csv or jsonl",
            )
        if self.format is PredictFormat.NPZ and self.output_file is None and sys.stdout.isatty():
            raise UsageError(
                "npz is binary, and standard output is a terminal",
                hint="give --output-file answers.npz",
            )

    @contextmanager
    def sink(self) -> Iterator[Sink]:
        """Open where the answers go.

        Raises UsageError if the file exists, cannot be written, or another process writes to it.
        With `resume`, an existing file is appended to; so is what is no file, as /dev/null. A new
        file that nothing could be written to, or only part of a .json or .npz, does not stay.
        """
        if self.output_file is None:
            yield Sink()
            return
        from mlserve.rows.resuming import hold  # most answers go to standard output

        is_device = self.output_file.exists() and not self.output_file.is_file()
        is_new = not (self.resume or is_device)
        try:
            file = self.output_file.open("xb" if is_new else "ab")
        except FileExistsError as error:
            goes_on = "--resume goes on with it; or " if self.is_resumable else ""
            raise UsageError(
                f"{self.output_file} exists already", hint=f"{goes_on}give another --output-file"
            ) from error
        except OSError as error:
            raise _unwritable(self.output_file, error, _WRITABLE) from error
        sink = Sink(file)
        try:
            with file:
                if not is_device:
                    hold(file, self.output_file)
                yield sink
        except KeyboardInterrupt:
            if is_new and sink.is_partial:
                self.output_file.unlink(missing_ok=True)
            raise
        except OSError as error:
            go_on = not is_device and self.is_resumable
            if is_new and not go_on:
                self.output_file.unlink(missing_ok=True)
            hint = "make room, and go on with the same command and --resume" if go_on else _WRITABLE
            raise _unwritable(self.output_file, error, hint) from error
        finally:
            with suppress(OSError):
                if is_new and self.output_file.stat().st_size == 0:
                    self.output_file.unlink()


class Sink:
    """Standard output, or the output file; a file has each row as soon as it is answered.

    `is_partial`: one JSON object or .npz is being written, of which a part is worth nothing.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = file
        self.is_partial = False

    def write(self, text: str) -> None:
        """Write text; on a terminal, what it would obey becomes escapes."""
        if self._file is not None:
            self._file.write(text.encode(errors="backslashreplace"))
            self._file.flush()
        else:
            typer.echo(escaped(text, "\n\t") if sys.stdout.isatty() else text, nl=False)

    def show(self, data: Any) -> None:
        """Write data as indented JSON."""
        self.is_partial = True
        if self._file is None:
            print_json(data)
        else:
            import json

            self.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        self.is_partial = False

    def save(self, arrays: Any) -> None:
        """Write a .npz file."""
        from mlserve.rows.arrays import save_arrays

        self.is_partial = True
        save_arrays(sys.stdout.buffer if self._file is None else self._file, arrays)
        self.is_partial = False

    @property
    def is_terminal(self) -> bool:
        """Return whether what is written can mix with a line of progress."""
        return self._file is None and sys.stdout.isatty()


def writer(format_: PredictFormat, sink: Sink, layout: Layout, *, has_header: bool) -> Writer:
    """Return what writes rows in that format; `has_header` is False to go on with a table."""
    from mlserve.rows.writers import CsvWriter, JsonlWriter, JsonWriter, NpzWriter, TableWriter

    if format_ is PredictFormat.CSV:
        return CsvWriter(sink.write, layout, has_header=has_header)
    if format_ is PredictFormat.TEXT:
        return TableWriter(sink.write, layout, has_header=has_header)
    if format_ is PredictFormat.JSONL:
        return JsonlWriter(sink.write, layout)
    if format_ is PredictFormat.JSON:
        return JsonWriter(sink.show, layout)
    return NpzWriter(sink.save, layout)


_WRITABLE = "give an --output-file with room, in a folder that you may write to"


def _unwritable(path: Path, error: OSError, hint: str) -> UsageError:
    return UsageError(f"{path} cannot be written: {error.strerror or error}", hint=hint)
