"""`mlserve predict`: ask a running server about image files, each under a deadline."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

import typer

from mlserve.background import run_within
from mlserve.cli import clock
from mlserve.cli.output import ProgressLine, error_json, note, print_json, require_input, say
from mlserve.cli.server_choice import ServerChoice, with_server_choice
from mlserve.client import Client, Prediction, Retries
from mlserve.client.adapter import USUAL_TOP_K
from mlserve.client.answers import Score
from mlserve.client.call import unreadable
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.client.endpoint import DEFAULT_MAX_ANSWER_BYTES
from mlserve.client.retries import DEFAULT_RETRIES
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, UsageError, as_utf8, readable

STDIN = "-"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MEANINGLESS = (
    "warning: the model has random weights, its answers mean nothing "
    "(mlserve export without --weights random gives it real ones)"
)


class PredictFormat(StrEnum):
    """Output formats of the answers."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


@with_server_choice
def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Image files. A folder stands for the *.jpg, *.jpeg and *.png files in it, "
            "sorted; - is standard input.",
            show_default=False,
        ),
    ],
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="The total time allowed, in seconds, from the start of the command to the answer. "
            "With several files, each one after the first has this time from when its turn comes.",
        ),
    ] = DEFAULT_TIMEOUT,
    *,
    choice: ServerChoice,
    max_attempts: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="The most times to ask a server that is not ready, is overloaded or goes away, "
            "all within the timeout. 1 asks once.",
        ),
    ] = DEFAULT_RETRIES.max_attempts,
    max_answer_bytes: Annotated[
        int,
        typer.Option(min=1, metavar="BYTES", help="The largest answer to read, in bytes."),
    ] = DEFAULT_MAX_ANSWER_BYTES,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Print the K best labels with their scores. Default: text prints the best label "
            f"alone, json the best {USUAL_TOP_K} with scores.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        PredictFormat,
        typer.Option(
            "--output",
            help="text: the label; for several files, one line `file<TAB>label` for each (with "
            "--top-k, `file<TAB>score<TAB>index<TAB>label`). json: one object; for several files, "
            '{"predictions": [...]}. jsonl: one object a line, as the answers arrive.',
        ),
    ] = PredictFormat.TEXT,
) -> None:
    """Ask a server what is in an image, and print the label.

    A bad file does not stop the others: its error names it, and the exit code is that of the first
    error.

    Exit codes: 0 answered, 2 bad call or image, 5 no server or not ready, 6 the server failed,
    7 overloaded, 124 no answer in time.

    For example:

    label=$(mlserve predict horse.jpg --timeout 5)

    mlserve predict photos/ --top-k 3 --output jsonl
    """
    deadline = Deadline.after(timeout, since=clock.command_start())
    inputs = gather(files, deadline)
    server = choice.find(deadline)
    show = printer(output.value, is_batch=inputs.is_batch, has_scores=top_k is not None)
    retries = Retries(max_attempts)
    with server.connect(retries=retries, max_answer_bytes=max_answer_bytes) as client:
        predictor = Predictor(client, show, top_k=top_k, is_random=server.has_random_weights)
        exit_code = predictor.run(inputs, deadline)
    if exit_code:
        raise typer.Exit(exit_code)


class Predictor:
    """Asks one client about each image in turn, and passes the answers to a printer.

    `is_random`: the server is known to serve random weights, even if its answers do not say so.
    """

    def __init__(
        self, client: Client, show: Printer, *, top_k: int | None, is_random: bool
    ) -> None:
        self._client = client
        self._show = show
        self._top_k = top_k
        self._is_random = is_random
        self._is_warned = False
        self._shortfalls: set[str] = set()
        self._exit_code = 0

    def run(self, inputs: Inputs, deadline: Deadline) -> int:
        """Ask about every image, and return the exit code of the first error, else 0.

        `deadline` is that of the first image; each later image gets as much time, counted from its
        turn. Errors that the printer does not handle are raised.
        """
        progress = ProgressLine(len(inputs.names) if inputs.is_batch else 0)
        try:
            for done, name in enumerate(inputs.names):
                progress.draw(done, name)
                due = Deadline.after(deadline.timeout) if done else deadline
                outcome = self._ask(name, due)
                progress.clear()
                self._report(name, outcome)
        finally:
            progress.clear()
        self._show.finish()
        return self._exit_code

    def _ask(self, name: str, due: Deadline) -> Prediction | MlserveError:
        try:
            return self._client.predict(open_input(name), timeout=due, top_k=self._top_k)
        except MlserveError as error:
            return error

    def _report(self, name: str, outcome: Prediction | MlserveError) -> None:
        if isinstance(outcome, MlserveError):
            self._exit_code = self._exit_code or int(outcome.exit_code)
            self._show.error(name, outcome)
            return
        if self._is_random or outcome.has_random_weights:
            outcome = replace(outcome, has_random_weights=True)
            self._warn()
        if outcome.shortfall:
            self._tell(len(outcome.scores), outcome.shortfall)
        self._show.prediction(name, outcome)

    def _tell(self, count: int, shortfall: str) -> None:
        """Warn, once for each reason, that there are fewer scores than requested."""
        if shortfall not in self._shortfalls:
            note(f"note: {count} of the {self._top_k} best labels: {shortfall}")
        self._shortfalls.add(shortfall)

    def _warn(self) -> None:
        if not self._is_warned:
            note(_MEANINGLESS)
        self._is_warned = True


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
        # Only at its start: a file may be called `image`, which occurs in other messages.
        is_named = error.message.startswith(f"{name} cannot be read")
        note(f"error: {error.message}" if is_named else f"error: {readable(name)}: {error.message}")
        if error.hint:
            note(f"hint: {error.hint}")


class ObjectPrinter(_OneImage):
    """Prints one indented object."""

    def prediction(self, name: str, answer: Prediction) -> None:
        print_json(_row(name, answer))


class BatchPrinter:
    """Prints one indented object `{"predictions": [...]}`; a failed image's row has `error`."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def prediction(self, name: str, answer: Prediction) -> None:
        self._rows.append(_row(name, answer))

    def error(self, name: str, error: MlserveError) -> None:
        self._rows.append(_error_row(name, error))

    def finish(self) -> None:
        print_json({"predictions": self._rows})


class JsonlPrinter(_Immediate):
    """Prints one object a line, immediately; a failed image's row has `error`."""

    def prediction(self, name: str, answer: Prediction) -> None:
        print_json(_row(name, answer), indent=None)

    def error(self, name: str, error: MlserveError) -> None:
        print_json(_error_row(name, error), indent=None)


def _row(name: str, answer: Prediction) -> dict[str, Any]:
    return {"file": as_utf8(name), **answer.to_json()}


def _error_row(name: str, error: MlserveError) -> dict[str, Any]:
    return {"file": as_utf8(name), "error": error_json(error)}


def _score_line(row: Score) -> str:
    """Return `score<TAB>index<TAB>label`, the label last because it may contain anything."""
    return f"{row.score:.4f}\t{'' if row.index is None else row.index}\t{readable(row.label)}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Image names in order; `is_batch` is False for a single file given as such."""

    names: tuple[str, ...]
    is_batch: bool


def gather(arguments: Sequence[str], deadline: Deadline) -> Inputs:
    """Return the images that the arguments stand for, with folders expanded.

    Raises UsageError for a folder without images, standard input used twice or closed, or a single
    file that does not exist, and DeadlineExceeded if the file system does not answer.
    """
    if arguments.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once", hint="give - once")
    if STDIN in arguments:
        require_input()
    found = run_within(deadline, "looking for the files", lambda: _expand(arguments))
    is_batch = len(arguments) > 1 or found != list(arguments)
    if not is_batch and found != [STDIN]:
        run_within(deadline, f"looking for {found[0]}", lambda: _require(found[0]))
    return Inputs(tuple(found), is_batch)


def open_input(name: str) -> str | BinaryIO:
    """Return what to pass to the client for that name.

    Standard input is unbuffered: a buffer locked by a stalled reader would abort the process at
    exit.
    """
    return open(0, "rb", buffering=0, closefd=False) if name == STDIN else name


def _expand(arguments: Sequence[str]) -> list[str]:
    names: list[str] = []
    for argument in arguments:
        if argument != STDIN and Path(argument).is_dir():
            inside = sorted(_images(argument))
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


def _images(folder: str) -> Iterator[str]:
    for parent, _, files in os.walk(folder, onerror=_unreadable):
        for name in files:
            if name.lower().endswith(_SUFFIXES):
                yield str(Path(parent) / name)


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
