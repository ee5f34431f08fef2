"""YAML as people write it: blocks, comments with reasons, and quotes only where they are needed.

What is written is data of dicts, lists, texts, numbers, truth values and None. `Noted` puts a
comment above a value. For templates of Helm there are `Raw`, an expression in place of a value, and
`When`, a condition of a key.
Every text that a reader of YAML 1.1 or 1.2 could take for something else is quoted.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_COLUMNS = 90
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./+-]*(?::[A-Za-z0-9_./+-]+)*")
"""Texts that need no quotes: they begin with a letter or a slash, so that none is a number."""
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
"""Words that are not texts in YAML 1.1 or 1.2, in any case of their letters."""
_NOT_PRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
"""Characters that JSON leaves as they are, and that YAML does not take or ends a line at."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A value, and the comment above it: why it is as it is."""

    value: Any
    note: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A text that is written as it is, in place of a value."""

    text: str


@dataclass(frozen=True, slots=True)
class When:
    """A value of a dict whose key is there only if this condition of a template holds."""

    value: Any
    condition: str


def yaml_text(data: Any, comment: str = "") -> str:
    """Return data as a document of YAML, below a comment that is wrapped."""
    lines = [*_comment(comment, ""), *_lines(data, "")]
    return "\n".join(lines) + "\n"


def _lines(data: Any, indent: str) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _entry(f"{indent}{_scalar(key)}:", value, indent)
    elif isinstance(data, Sequence):
        for value in data:
            yield from _item(value, indent)
    else:
        raise TypeError(f"{data!r} is neither a dict nor a list")


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a key and its value."""
    if isinstance(value, When):
        yield f"{indent}{{{{- if {value.condition} }}}}"
        yield from _entry(head, value.value, indent)
        yield f"{indent}{{{{- end }}}}"
        return
    if isinstance(value, Noted):
        yield from _comment(value.note, indent)
        value = value.value
    if isinstance(value, str) and "\n" in value and _is_block(value):
        yield from (f"{head} |", *_block(value, indent + "  "))
    elif _is_nested(value):
        yield head
        yield from _lines(value, indent + "  ")
    else:
        yield f"{head} {_scalar(value)}"


def _item(value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a list's item: its first line stands behind the dash."""
    if isinstance(value, Noted):
        yield from _comment(value.note, indent)
        value = value.value
    if not _is_nested(value):
        yield f"{indent}- {_scalar(value)}"
        return
    first = True
    for line in _lines(value, indent + "  "):
        is_comment = line.lstrip().startswith("#") and first
        if is_comment:  # a comment on the first key stands above the item
            yield indent + line.lstrip()
            continue
        yield f"{indent}- {line[len(indent) + 2 :]}" if first else line
        first = False


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _is_block(text: str) -> bool:
    """Return whether a text of several lines comes back unchanged from a literal block."""
    lines = text.splitlines()
    is_whole = "\n".join(lines) + "\n" == text and all(map(_is_printable, lines))
    return is_whole and bool(lines[0]) and not lines[0][0].isspace() and lines[-1] != ""


def _is_printable(line: str) -> bool:
    return not _NOT_PRINTED.search(line) and line.isprintable()


def _block(text: str, indent: str) -> Iterator[str]:
    for line in text.splitlines():
        yield indent + line if line else ""


def _scalar(value: Any) -> str:
    match value:
        case Raw():
            return value.text
        case bool() | None:
            return json.dumps(value)
        case int() | float():
            return json.dumps(value)
        case str():
            return _text(value)
        case Mapping() | list() | tuple() if not value:
            return "{}" if isinstance(value, Mapping) else "[]"
    raise TypeError(f"{value!r} cannot be written as YAML")


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _NOT_PRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _comment(text: str, indent: str) -> Iterator[str]:
    for paragraph in text.splitlines():
        lines = textwrap.wrap(paragraph, _COLUMNS - len(indent), break_on_hyphens=False) or [""]
        yield from (f"{indent}# {line}".rstrip() for line in lines)
