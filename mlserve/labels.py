"""Read the labels of a model from a user's file.

A text file has one label a line. Only a line feed ends a line: U+2028 and the like are part of a
label. JSON is accepted too: a list of labels, an object of labels by class number, or one that
holds such an object as `id2label`, as the `config.json` of Hugging Face does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlserve.errors import ExportError, UsageError

_LARGEST = 64 * 2**20
_LONGEST = 10_000
_SHOWN = 5
_BLANKS = " \t\r\f\v"
_IN_ORDER = "write one label a line, in the order of the model's outputs"
_AS_JSON = (
    'write {"0": "cat", "1": "dog"} with every class number from 0 on, or ["cat", "dog"], or give '
    "a config.json that has id2label"
)


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels in the user's file, in the order of the model's outputs.

    White space around a line of text, and blank lines at the end, are ignored. Raises UsageError
    when there is no such file, and ExportError when it cannot be read, holds no labels, leaves a
    class without one, or gives a class two.
    """
    text = _text(path)
    data = _as_json(path, text)
    labels = _of_lines(path, text) if data is None else _of_json(path, data)
    if not labels:
        raise ExportError(f"{path} holds no labels", hint=_IN_ORDER)
    longest = max(map(len, labels))
    if longest > _LONGEST:
        raise ExportError(
            f"{path} has a label of {longest} characters, more than {_LONGEST}", hint=_IN_ORDER
        )
    return labels


def repeated(labels: Sequence[str]) -> dict[str, list[int]]:
    """Return the labels shared by several classes, with the numbers of those classes."""
    places: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        places.setdefault(label, []).append(number)
    return {label: numbers for label, numbers in places.items() if len(numbers) > 1}


def folder_label(file: Path, root: Path) -> str | None:
    """Return the name of the folder directly below `root` that a file in it lies in.

    As in torchvision's ImageFolder, that is its label. None for a file in `root` itself.
    """
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 20} MiB")
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(
            f"--labels {path}: there is no such file", hint="check the path and the spelling"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(
            f"the labels in {path} cannot be read: {reason}", hint="give a UTF-8 text file"
        ) from error


def _of_lines(path: Path, text: str) -> tuple[str, ...]:
    labels = [line.strip(_BLANKS) for line in text.split("\n")]
    while labels and not labels[-1]:
        labels.pop()
    if "" in labels:
        raise ExportError(f"line {labels.index('') + 1} of {path} is blank", hint=_IN_ORDER)
    return tuple(labels)


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs: a dict would drop the first of two equal keys."""


def _as_json(path: Path, text: str) -> Any:
    """Parse the text as JSON; None for plain lines."""
    is_named_json = path.suffix.lower() == ".json"
    start = text.lstrip()[:1]
    if not is_named_json and start not in ("{", "["):
        return None
    try:
        return json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        if not is_named_json and start == "[":
            return None  # a first label such as [unknown]
        raise ExportError(f"{path} is not valid JSON: {error}", hint=_AS_JSON) from error


def _of_json(path: Path, data: Any) -> tuple[str, ...]:
    if isinstance(data, _Object):
        named = dict(data).get("id2label", data)
        if not isinstance(named, _Object):
            raise ExportError(f"id2label in {path} is not an object", hint=_AS_JSON)
        numbered = _numbered(path, named)
    elif isinstance(data, list):
        numbered = dict(enumerate(data))
    else:
        raise ExportError(f"{path} is JSON, but neither an object nor a list", hint=_AS_JSON)
    for number, label in numbered.items():
        if not isinstance(label, str) or not label.strip():
            shown = json.dumps(label)[:200]
            raise ExportError(
                f"the label of class {number} in {path} is {shown}, not a text",
                hint=_AS_JSON,
            )
    return tuple(numbered[number] for number in sorted(numbered))


def _numbered(path: Path, pairs: _Object) -> Mapping[int, Any]:
    """Return the labels by class number; numbers must be 0, 1, 2, ... without a gap."""
    numbered: dict[int, Any] = {}
    for key, label in pairs:
        if not (key.isascii() and key.isdecimal() and len(key) <= len(str(_LARGEST))):
            raise ExportError(
                f"{path} has the key {key[:200]!r}, which is not a class number", hint=_AS_JSON
            )
        if int(key) in numbered:
            raise ExportError(f"{path} gives class {int(key)} two labels", hint=_AS_JSON)
        numbered[int(key)] = label
    missing = [number for number in range(len(numbered)) if number not in numbered]
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if missing[_SHOWN:] else "")
        raise ExportError(
            f"{path} has labels up to class {max(numbered)} but none for class {shown}",
            hint=_AS_JSON,
        )
    return numbered
