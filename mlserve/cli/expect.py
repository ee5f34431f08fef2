"""`mlserve predict --expect`: compare the answers with the labels that the user knows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mlserve.accuracy import Accuracy
from mlserve.cli.images import error_row, prediction_row, tell_error
from mlserve.cli.output import note, print_json, print_table, say, terminal_columns
from mlserve.client import Client, Prediction
from mlserve.client.answers import Score
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, MlserveError, UsageError, counted, first_of, readable
from mlserve.hints import did_you_mean
from mlserve.labels import folder_label
from mlserve.rows.delimited import open_text, read_delimited
from mlserve.rows.table import BadRow

FOLDERS = "folders"
"""The value of `--expect` that takes each image's folder as its label."""
_NAMED = 5
"""Labels or files that a message names."""
_WIDEST = 14
"""Characters of a label at the head of a column of the confusion table."""
_MOST_MISTAKES = 20
_ALL_CLASSES = 10**6
_MOST_TRIED = 10
"""Images that may be bad before the labels are taken as they are."""


def expected_labels(
    expect: str, arguments: Sequence[str], names: Sequence[str]
) -> Mapping[str, str]:
    """Return the label of each image, by its name in `names`.

    `expect` is FOLDERS, or a CSV or TSV file of file names and labels. `arguments` are the files
    and folders of the command line. Raises UsageError naming images without a label, and for a file
    that cannot be read.
    """
    if expect == FOLDERS:
        found = {name: _folder_of(name, arguments) for name in names}
        hint = "put the images of each class into a folder named as its label, or give a file: "
        hint += "--expect labels.csv"
    else:
        listed = _read(expect)
        places = [Path(expect).parent, *map(Path, arguments)]
        alone = Counter(Path(name).name for name in set(names))
        found = {
            name: _listed(name, listed, places, is_alone=alone[Path(name).name] == 1)
            for name in names
        }
        hint = f"add a line for each to {expect}: FILE,LABEL"
    known = {name: label for name, label in found.items() if label is not None}
    unknown = [readable(name) for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"--expect {expect} has no label for {first_of(unknown, _NAMED)}", hint=hint
        )
    return known


def _folder_of(name: str, arguments: Sequence[str]) -> str | None:
    """Return the label that an image's folder gives; None for one that lies in no class's folder.

    That is the folder directly below the one given on the command line; for a file given by name,
    the folder that it is in.
    """
    for argument in arguments:
        if Path(argument).is_dir() and Path(name).is_relative_to(argument):
            return folder_label(Path(name), Path(argument))
    return Path(name).absolute().parent.name


def _listed(
    name: str, listed: Mapping[str, str], places: Sequence[Path], *, is_alone: bool
) -> str | None:
    """Return the label of a file that the list names from one of these places, or by itself.

    `is_alone` means that no other image has that name, so that the name without its folder will do.
    """
    whole = str(Path(name).absolute())
    for place in places:
        label = listed.get(os.path.relpath(whole, place))
        if label is not None:
            return label
    by_name = listed.get(Path(name).name) if is_alone else None
    return listed.get(name) or listed.get(whole) or by_name


def _read(file: str) -> Mapping[str, str]:
    """Read a table of files and labels: two columns, or those named `file` and `label`."""
    try:
        with open_text(file) as text:
            table = read_delimited(file, text, delimiter=None)
            columns = _columns_of(file, table.columns)
            found: dict[str, str] = {}
            if not {"file", "label"} & set(table.columns):
                found[os.path.normpath(columns[0])] = columns[1]  # there is no header
            for row in table.rows:
                if isinstance(row, BadRow):
                    raise UsageError(f"{row.place}: {row.error.message}", hint=row.error.hint)
                name = os.path.normpath(row.cells[columns[0]])
                if found.setdefault(name, row.cells[columns[1]]) != row.cells[columns[1]]:
                    raise UsageError(
                        f"{row.place}: {readable(name)} has a second label, "
                        f"{row.cells[columns[1]]!r} after {found[name]!r}",
                        hint="give each file one label",
                    )
    except OSError as error:
        raise UsageError(
            f"--expect {file} cannot be read: {error.strerror}",
            hint=f"give a CSV file of file names and labels, or --expect {FOLDERS}",
        ) from error
    return found


def _columns_of(file: str, columns: Sequence[str]) -> tuple[str, str]:
    if {"file", "label"} <= set(columns):
        return "file", "label"
    if len(columns) == 2:  # noqa: PLR2004
        return columns[0], columns[1]
    raise UsageError(
        f"--expect {file} has the columns {first_of(columns, _NAMED)}",
        hint="name two of them `file` and `label` in its first line",
    )


def accuracy_printer(
    expected: Mapping[str, str], output: str, client: Client, deadline: Deadline
) -> AccuracyPrinter:
    """Return the printer for images of these labels, which are checked against the model's.

    The server is asked for all classes of the first image that it answers. Raises UsageError for a
    label that the model does not have.
    """
    answer = _first_answer(client, expected, deadline)
    if answer is not None and answer.has_all_classes:
        expected, taken = in_words_of(answer.scores, expected)
        if taken:
            note(taken)
    return AccuracyPrinter(expected, output)


def _first_answer(client: Client, names: Iterable[str], deadline: Deadline) -> Prediction | None:
    """Return the answer for the first good image; None if the first few are bad, or no server.

    What is wrong, the questions that follow will say.
    """
    for name in islice(names, _MOST_TRIED):
        try:
            return client.predict(name, timeout=deadline.timeout, top_k=_ALL_CLASSES)
        except (UsageError, InferenceFailed):  # perhaps of this image: it may not be one
            continue
        except MlserveError:
            return None
    return None


def in_words_of(
    classes: Sequence[Score], expected: Mapping[str, str]
) -> tuple[Mapping[str, str], str | None]:
    """Return the expected labels as the model has them, and a note if they were taken as numbers.

    `classes` are all classes of the model. Expected labels that are numbers and no labels of the
    model are its classes by number. Raises UsageError for labels that the model does not have.
    """
    labels = {item.label for item in classes}
    asked = set(expected.values())
    unknown = sorted(asked - labels)
    if not unknown:
        return expected, None
    by_number = {str(item.index): item.label for item in classes if item.index is not None}
    if asked <= by_number.keys():
        given = {name: by_number[label] for name, label in expected.items()}
        return given, "note: the expected labels are numbers, taken as the numbers of the classes"
    images = sum(label == unknown[0] for label in expected.values())
    others = f" (and {len(unknown) - 1} more labels)" if len(unknown) > 1 else ""
    raise UsageError(
        f"{unknown[0]!r}, expected of {counted(images, 'image')}, is not a label "
        f"of the model{others}",
        hint=f"{did_you_mean(unknown[0], labels)}the labels of the model are those that "
        f"`mlserve predict FILE --top-k {_ALL_CLASSES}` prints",
    )


@dataclass(slots=True)
class AccuracyPrinter:
    """Prints how often the answers were right: as text, one JSON object, or JSON lines."""

    expected: Mapping[str, str]
    output: str
    accuracy: Accuracy = field(default_factory=Accuracy)
    errors: int = 0
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def prediction(self, name: str, answer: Prediction) -> None:
        expected = self.expected[name]
        labels = [answer.label, *(score.label for score in answer.scores[1:])]
        self.accuracy.add(expected, labels)
        self._keep({**prediction_row(name, answer), "expected": expected})

    def error(self, name: str, error: MlserveError) -> None:
        self.errors += 1
        if self.output == "text":
            tell_error(name, error)
        self._keep({**error_row(name, error), "expected": self.expected[name]})

    def _keep(self, row: dict[str, Any]) -> None:
        if self.output == "jsonl":
            print_json(row, indent=None)
        elif self.output == "json":
            self._rows.append(row)

    def finish(self) -> None:
        if self.output == "json":
            print_json({"predictions": self._rows, **self.accuracy.to_json()})
        elif self.output == "jsonl":
            for line in _summary(self.accuracy, self.errors):
                note(line)
        else:
            self._print()

    def _print(self) -> None:
        for line in _summary(self.accuracy, self.errors):
            say(line)
        if not self.accuracy.images:
            return
        say()
        classes = self.accuracy.labels()
        if not _print_confusion(self.accuracy, classes):
            _print_classes(self.accuracy)
            _print_mistakes(self.accuracy)


def _summary(accuracy: Accuracy, errors: int) -> Iterator[str]:
    share, images = accuracy.share, accuracy.images
    if share is None:
        yield "accuracy: no image was answered"
    else:
        yield f"accuracy {share:.4f} ({accuracy.right} of {images})"
    if accuracy.best is not None and accuracy.best > 1 and accuracy.share_in_best is not None:
        yield (
            f"in the best {accuracy.best}: {accuracy.share_in_best:.4f} "
            f"({accuracy.in_best} of {images})"
        )
    if errors:
        yield f"not counted: {counted(errors, 'image')} with an error"


def _print_confusion(accuracy: Accuracy, labels: Sequence[str]) -> bool:
    """Print expected labels by row and answers by column, if the terminal is wide enough."""
    heads = [readable(label)[:_WIDEST] for label in labels]
    expected = [item.label for item in accuracy.classes()]
    first = max(len(readable(label)) for label in ("EXPECTED", *expected))
    width = first + sum(2 + max(len(head), 4) for head in heads)
    if width > terminal_columns():
        return False
    rows = [
        [readable(row), *(str(accuracy.pairs[row, column] or ".") for column in labels)]
        for row in expected
    ]
    print_table(["EXPECTED", *heads], rows, is_header_text=True)
    return True


def _print_classes(accuracy: Accuracy) -> None:
    rows = [
        [_percent(item.recall), _percent(item.precision), str(item.images), readable(item.label)]
        for item in accuracy.classes()
    ]
    print_table(["recall", "precision", "images", "expected"], rows)


def _print_mistakes(accuracy: Accuracy) -> None:
    mistakes = accuracy.mistakes()
    if not mistakes:
        return
    say()
    rows = [
        [str(count), f"{readable(expected)} -> {readable(answered)}"]
        for expected, answered, count in mistakes[:_MOST_MISTAKES]
    ]
    print_table(["images", "expected -> answered"], rows)
    if len(mistakes) > _MOST_MISTAKES:
        say(f"... and {len(mistakes) - _MOST_MISTAKES} more kinds; --output json has them all")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"
