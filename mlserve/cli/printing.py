"""How the answers of `predict` are printed: for one image or for many, as text or as JSON."""

from __future__ import annotations

from typing import Any, Protocol

from mlserve.cli.output import error_json, note, print_json, say
from mlserve.client import Prediction
from mlserve.client.answers import Score
from mlserve.client.refusals import readable
from mlserve.errors import MlserveError


class Printer(Protocol):
    """Where answers and errors go, in the order of the images. `finish` comes after the last."""

    def prediction(self, name: str, found: Prediction) -> None: ...
    def error(self, name: str, error: MlserveError) -> None: ...
    def finish(self) -> None: ...


def printer(output: str, *, is_batch: bool, has_scores: bool) -> Printer:
    """The printer for an output format (text, json, jsonl).

    `is_batch`: several images were given. `has_scores`: text shows the scores too.
    """
    if output == "jsonl":
        return JsonLines()
    if output == "json":
        return JsonBatch() if is_batch else JsonObject()
    return TextLines(has_scores=has_scores) if is_batch else TextLabel(has_scores=has_scores)


class _Unfinished:
    """A printer that has nothing left to do after the last answer."""

    def finish(self) -> None:
        return


class _OneImage(_Unfinished):
    """A printer for one image: its error is the command's error."""

    def error(self, name: str, error: MlserveError) -> None:
        raise error


class TextLabel(_OneImage):
    """The label on the first line; then, when asked for, `score<TAB>index<TAB>label` a line."""

    def __init__(self, *, has_scores: bool) -> None:
        self._has_scores = has_scores

    def prediction(self, name: str, found: Prediction) -> None:
        say(readable(found.label))
        for row in found.scores if self._has_scores else ():
            say(_score_line(row))


class TextLines(_Unfinished):
    """`file<TAB>label` a line; with scores K a file: `file<TAB>score<TAB>index<TAB>label`."""

    def __init__(self, *, has_scores: bool) -> None:
        self._has_scores = has_scores

    def prediction(self, name: str, found: Prediction) -> None:
        file = readable(name)
        if not (self._has_scores and found.scores):
            say(f"{file}\t{readable(found.label)}")
            return
        for row in found.scores:
            say(f"{file}\t{_score_line(row)}")

    def error(self, name: str, error: MlserveError) -> None:
        # Not wherever the name occurs in it: a file can be called `image`.
        is_named = error.message.startswith(f"{name} cannot be read")
        note(f"error: {error.message}" if is_named else f"error: {readable(name)}: {error.message}")
        if error.hint:
            note(f"hint: {error.hint}")


class JsonObject(_OneImage):
    """One indented object."""

    def prediction(self, name: str, found: Prediction) -> None:
        print_json(_row(name, found))


class JsonBatch:
    """One indented object `{"predictions": [...]}`; a row of a failed image has `error`."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def prediction(self, name: str, found: Prediction) -> None:
        self._rows.append(_row(name, found))

    def error(self, name: str, error: MlserveError) -> None:
        self._rows.append(_error_row(name, error))

    def finish(self) -> None:
        print_json({"predictions": self._rows})


class JsonLines(_Unfinished):
    """One object a line, at once; a row of a failed image has `error`."""

    def prediction(self, name: str, found: Prediction) -> None:
        print_json(_row(name, found), indent=None)

    def error(self, name: str, error: MlserveError) -> None:
        print_json(_error_row(name, error), indent=None)


def _row(name: str, found: Prediction) -> dict[str, Any]:
    return {"file": _printable(name), **found.to_json()}


def _error_row(name: str, error: MlserveError) -> dict[str, Any]:
    return {"file": _printable(name), "error": error_json(error)}


def _printable(name: str) -> str:
    """A file name as UTF-8 can carry it: bytes that are none become escapes."""
    return name.encode(errors="backslashreplace").decode()


def _score_line(row: Score) -> str:
    """`score<TAB>index<TAB>label`: the label is last, whatever is in it."""
    return f"{row.score:.4f}\t{'' if row.index is None else row.index}\t{readable(row.label)}"
