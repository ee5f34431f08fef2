"""`mlserve predict` for image files: ask about each, under a deadline, and print its label."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from mlserve.background import run_within
from mlserve.cli.answers import PredictFormat, PredictOptions, Warnings
from mlserve.cli.output import ProgressLine, note, print_json, require_input, say
from mlserve.client import Client, Prediction
from mlserve.client.answers import Score
from mlserve.client.call import unreadable
from mlserve.deadline import Deadline
from mlserve.errors import ExitCode, MlserveError, UsageError, as_utf8, counted, readable
from mlserve.launch.signals import Interrupts
from mlserve.rows.kinds import STDIN, Stdin

_SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".tif", ".tiff", ".webp")
"""Of images that no model here takes, or not by this name."""
_FORMATS = (PredictFormat.TEXT, PredictFormat.JSON, PredictFormat.JSONL)


@dataclass(frozen=True, slots=True)
class Images:
    """Images to ask about; `stdin` is what `-` stands for, if its beginning has been read.

    `printer` makes what prints the answers, if it is not that of the output format. Raises
    UsageError for options that do not go with images.
    """

    inputs: Inputs
    options: PredictOptions
    stdin: Stdin | None = None
    printer: Callable[[Client, Deadline], Printer] | None = None

    def __post_init__(self) -> None:
        hint = (
            "they go with tables, such as rows.csv; to send an image as one input of any "
            "signature: --input NAME=@FILE"
        )
        self.options.refuse("signature outputs batch output_file resume", "images", hint)
        if self.options.format not in _FORMATS:
            raise UsageError(
                f"--output {self.options.format} does not go with images",
                hint="choose text, json or jsonl",
            )

    def ask(self, client: Client, deadline: Deadline, *, is_random: bool) -> int:
        """Ask about each, print the answers, and return the exit code of the first error."""
        top_k = self.options.top_k
        show = (
            printer(
                self.options.format,
                is_batch=self.inputs.is_batch,
                has_scores=top_k is not None,
            )
            if self.printer is None
            else self.printer(client, deadline)
        )
        predictor = Predictor(
            client,
            show,
            top_k=top_k,
            is_random=is_random,
            parallel=self.options.parallel,
            stdin=self.stdin,
        )
        return predictor.run(self.inputs, deadline)


class Predictor:
    """Asks one client about each image in turn, and passes the answers to a printer.

    `is_random`: the server is known to serve random weights, even if its answers do not say so.
    """

    def __init__(
        self,
        client: Client,
        show: Printer,
        *,
        top_k: int | None,
        is_random: bool,
        parallel: int | None = None,
        stdin: Stdin | None = None,
    ) -> None:
        self._parallel = parallel
        self._stdin = stdin
        self._client = client
        self._show = show
        self._top_k = top_k
        self._is_random = is_random
        self._warnings = Warnings(is_random=is_random)
        self._shortfalls: set[str] = set()
        self._exit_code = self._done = 0

    def run(self, inputs: Inputs, deadline: Deadline) -> int:
        """Ask about every image, and return the exit code of the first error, else 0.

        `deadline` is that of the first image; each later image gets as much time, counted from its
        turn. Errors that the printer does not handle are raised. After Ctrl-C or SIGTERM the
        answers that are there are printed all the same, unless a second one comes meanwhile.
        """
        with Interrupts.watched() as interrupts:
            try:
                self._report_all(inputs, deadline)
            except KeyboardInterrupt:
                if not self._done or not inputs.is_batch:
                    raise
                self._exit_code = int(ExitCode.INTERRUPTED)
            with interrupts.held(once=True):
                self._show.finish()
        if self._done < len(inputs.names):
            _tell_interrupted(inputs.names, self._done)
        return self._exit_code

    def _report_all(self, inputs: Inputs, deadline: Deadline) -> None:
        progress = ProgressLine(len(inputs.names) if inputs.is_batch else 0)
        try:
            outcomes = self._outcomes(inputs.names, deadline)
            for name in inputs.names:
                progress.draw(self._done, name)
                outcome = next(outcomes)
                progress.clear()
                self._report(name, outcome)
                self._done += 1
        finally:
            progress.clear()

    def _outcomes(
        self, names: Sequence[str], deadline: Deadline
    ) -> Iterator[Prediction | MlserveError]:
        if self._parallel is not None:
            yield from self._client.predict_many(
                map(self._image, names),
                parallel=self._parallel,
                timeout=deadline.timeout,
                top_k=self._top_k,
            )
            return
        for done, name in enumerate(names):
            yield self._ask(name, Deadline.after(deadline.timeout) if done else deadline)

    def _ask(self, name: str, due: Deadline) -> Prediction | MlserveError:
        try:
            return self._client.predict(self._image(name), timeout=due, top_k=self._top_k)
        except MlserveError as error:
            return error

    def _image(self, name: str) -> str | BinaryIO:
        return name if name != STDIN else cast("BinaryIO", self._stdin or Stdin())

    def _report(self, name: str, outcome: Prediction | MlserveError) -> None:
        if isinstance(outcome, MlserveError):
            self._exit_code = self._exit_code or int(outcome.exit_code)
            self._show.error(name, outcome)
            return
        self._warnings.look(outcome, name)
        if self._is_random:
            outcome = replace(outcome, has_random_weights=True)
        if outcome.shortfall:
            self._tell(len(outcome.scores), outcome.shortfall)
        self._show.prediction(name, outcome)

    def _tell(self, count: int, shortfall: str) -> None:
        """Warn, once for each reason, that there are fewer scores than requested."""
        if shortfall not in self._shortfalls:
            note(f"note: {count} of the {self._top_k} best labels: {shortfall}")
        self._shortfalls.add(shortfall)


class Printer(Protocol):
    """Prints answers and errors, in the order of the images; `finish` follows the last."""

    def prediction(self, name: str, answer: Prediction) -> None: ...
    def error(self, name: str, error: MlserveError) -> None: ...
    def finish(self) -> None: ...


def printer(output: str, *, is_batch: bool, has_scores: bool) -> Printer:
    """Return the printer for an output format (text, json, jsonl).

    `is_batch`: several images were given. `has_scores`: text shows the scores too.
    """
    if output == "jsonl":
        return JsonlPrinter()
    if output == "json":
        return BatchPrinter() if is_batch else ObjectPrinter()
    return LinesPrinter(has_scores=has_scores) if is_batch else LabelPrinter(has_scores=has_scores)


class _Immediate:
    """A printer with nothing left to print after the last answer."""

    def finish(self) -> None:
        return


class _OneImage(_Immediate):
    """A printer for one image, whose error is the command's error."""

    def error(self, name: str, error: MlserveError) -> None:
        raise error


class LabelPrinter(_OneImage):
    """Prints the label on the first line, then, if requested, `score<TAB>index<TAB>label` lines."""

    def __init__(self, *, has_scores: bool) -> None:
        self._has_scores = has_scores

    def prediction(self, name: str, answer: Prediction) -> None:
        say(readable(answer.label))
        for row in answer.scores if self._has_scores else ():
            say(_score_line(row))


class LinesPrinter(_Immediate):
    """Prints `file<TAB>label` lines, or K lines a file: `file<TAB>score<TAB>index<TAB>label`."""

    def __init__(self, *, has_scores: bool) -> None:
        self._has_scores = has_scores

    def prediction(self, name: str, answer: Prediction) -> None:
        file = readable(name)
        if not (self._has_scores and answer.scores):
            say(f"{file}\t{readable(answer.label)}")
            return
        for row in answer.scores:
            say(f"{file}\t{_score_line(row)}")

    def error(self, name: str, error: MlserveError) -> None:
        tell_error(name, error)


class ObjectPrinter(_OneImage):
    """Prints one indented object."""

    def prediction(self, name: str, answer: Prediction) -> None:
        print_json(prediction_row(name, answer))


class BatchPrinter:
    """Prints one indented object `{"predictions": [...]}`; a failed image's row has `error`."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def prediction(self, name: str, answer: Prediction) -> None:
        self._rows.append(prediction_row(name, answer))

    def error(self, name: str, error: MlserveError) -> None:
        self._rows.append(error_row(name, error))

    def finish(self) -> None:
        print_json({"predictions": self._rows})


class JsonlPrinter(_Immediate):
    """Prints one object a line, immediately; a failed image's row has `error`."""

    def prediction(self, name: str, answer: Prediction) -> None:
        print_json(prediction_row(name, answer), indent=None)

    def error(self, name: str, error: MlserveError) -> None:
        print_json(error_row(name, error), indent=None)


def _tell_interrupted(names: Sequence[str], done: int) -> None:
    note(
        f"interrupted after {done} of {counted(len(names), 'image')}; the first without an answer "
        f"is {readable(names[done])}\nhint: ask about those that follow by their names"
    )


def tell_error(name: str, error: MlserveError) -> None:
    """Print the error of one of several images on stderr."""
    # Only at its start: a file may be called `image`, which occurs in other messages.
    is_named = error.message.startswith(f"{name} cannot be read")
    note(f"error: {error.message}" if is_named else f"error: {readable(name)}: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")


def prediction_row(name: str, answer: Prediction) -> dict[str, Any]:
    return {"file": as_utf8(name), **answer.to_json()}


def error_row(name: str, error: MlserveError) -> dict[str, Any]:
    return {"file": as_utf8(name), "error": error.to_json()}


def _score_line(row: Score) -> str:
    """Return `score<TAB>index<TAB>label`, the label last because it may contain anything."""
    return f"{row.score:.4f}\t{'' if row.index is None else row.index}\t{readable(row.label)}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Image names in order; `is_batch` is False for a single file given as such."""

    names: tuple[str, ...]
    is_batch: bool


def gather(arguments: Sequence[str], deadline: Deadline, *, takes_stdin: bool = False) -> Inputs:
    """Return the images that the arguments stand for, with folders expanded.

    Raises UsageError for a folder without images, standard input (`-`) where it is not taken, used
    twice or closed, or a single file that does not exist, and DeadlineExceeded if the file system
    does not answer.
    """
    if STDIN in arguments and not takes_stdin:
        raise UsageError("standard input (-) is not read by this command", hint="give a file")
    if arguments.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once", hint="give - once")
    if STDIN in arguments:
        require_input()
    others: list[str] = []
    found = run_within(deadline, "looking for the files", lambda: _expand(arguments, others))
    if others:
        note(
            f"note: {counted(len(others), 'image')} with other endings left out, the first is "
            f"{readable(others[0])}; a folder gives its files that end in {', '.join(_SUFFIXES)}"
        )
    is_batch = len(arguments) > 1 or found != list(arguments)
    if not is_batch and found != [STDIN]:
        run_within(deadline, f"looking for {found[0]}", lambda: _require(found[0]))
    return Inputs(tuple(found), is_batch)


def _expand(arguments: Sequence[str], others: list[str]) -> list[str]:
    """Return the names, folders expanded; `others` gets the images in them that are left out."""
    names: list[str] = []
    for argument in arguments:
        if argument != STDIN and Path(argument).is_dir():
            inside = sorted(_images(argument, others))
            if not inside:
                endings = ", ".join(_SUFFIXES)
                raise UsageError(
                    f"there is no image in the folder {argument}",
                    hint=f"a folder gives its files that end in {endings}; give others by name",
                )
            names += inside
        else:
            names.append(argument)
    return names


def _require(name: str) -> None:
    """Raise UsageError for a missing file, before any message about servers."""
    try:
        Path(name).stat()
    except OSError as error:
        raise unreadable(name, error) from error


def _images(folder: str, others: list[str]) -> Iterator[str]:
    for parent, _, files in os.walk(folder, onerror=_unreadable):
        for name in sorted(files):
            if name.lower().endswith(_SUFFIXES):
                yield str(Path(parent) / name)
            elif name.lower().endswith(_OTHER_SUFFIXES):
                others.append(str(Path(parent) / name))


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
