"""What an input file is, by its name or its content: an image, or a table in some format."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Any, BinaryIO

from mlserve.errors import UsageError, readable

STDIN = "-"
_LOOKED_AT = 2**16
_DELIMITERS = b",;\t"
_REQUEST = re.compile(rb'\{\s*"(instances|inputs|signature_name|id|parameters)"')
_ARRAY_MAGIC = (b"\x93NUMPY", b"PK\x03\x04")


class FileKind(StrEnum):
    """What a file holds. A JSON file is an array of objects, or a whole request."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    JSON = "json"
    NPY = "npy"
    NPZ = "npz"
    IMAGE = "image"


_SUFFIXES = {
    **{f".{kind}": kind for kind in FileKind if kind is not FileKind.IMAGE},
    ".ndjson": FileKind.JSONL,
}


def kind_by_name(name: str) -> FileKind:
    """Return what the suffix says; a file with any other suffix is an image."""
    return _SUFFIXES.get(PurePath(name).suffix.lower(), FileKind.IMAGE)


def tables_among(files: Sequence[str]) -> list[tuple[str, FileKind]]:
    """Return the files with their kinds if all are tables, and nothing if all are images.

    A folder is one of images. Raises UsageError for some of each.
    """
    kinds = [(name, kind_by_name(name)) for name in files]
    tables = [pair for pair in kinds if pair[1] is not FileKind.IMAGE]
    if tables and len(tables) < len(kinds):
        image = next(name for name, kind in kinds if kind is FileKind.IMAGE)
        raise UsageError(
            f"{readable(tables[0][0])} is a table and {readable(image)} is not",
            hint="give tables and images to two commands",
        )
    return tables


def kind_by_content(start: bytes) -> FileKind:
    """Return what a stream holds by its first bytes; what looks like no table is an image.

    A table starts with an object or an array of JSON, or its first line is text with a comma, a
    semicolon or a tab in it.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_ARRAY_MAGIC[0]):
        return FileKind.NPY
    if start.startswith(_ARRAY_MAGIC[1]):
        return FileKind.NPZ
    if text.startswith(b"["):
        return FileKind.JSON
    if text.startswith(b"{"):
        return _kind_of_objects(text)
    line, newline, _ = text.partition(b"\n")
    is_line = bool(newline) and any(mark in line for mark in _DELIMITERS)
    return FileKind.CSV if is_line and is_text_line(text) else FileKind.IMAGE


def _kind_of_objects(text: bytes) -> FileKind:
    """Return JSONL if the first line is a whole object that is not a request, else JSON."""
    line, newline, _ = text.partition(b"\n")
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        is_long = not newline and not _REQUEST.match(line)  # the rest of it has not come yet
        return FileKind.JSONL if is_long else FileKind.JSON
    return FileKind.JSON if is_request(first) else FileKind.JSONL


def is_request(data: Any) -> bool:
    """Return whether JSON data is a request, in either form, and not a table."""
    return isinstance(data, Mapping) and not {"instances", "inputs"}.isdisjoint(data)


def is_text_line(start: bytes) -> bool:
    """Return whether a stream starts with a line of text, whose first bytes these are."""
    try:
        text = start.partition(b"\n")[0].decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(char.isprintable() or char in "\t\r" for char in text)


class Stdin(io.RawIOBase):
    """Standard input whose first bytes can be looked at before it is read.

    It is unbuffered: a buffer locked by a stalled reader would abort the process at exit.
    """

    name = 0

    def __init__(self) -> None:
        self._raw: BinaryIO = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        self._start = b""

    def peek(self) -> bytes:
        """Return the beginning, as far as it is there; waits for the first bytes.

        Raises UsageError if it cannot be read.
        """
        if not self._start:
            try:
                self._start = self._raw.read(_LOOKED_AT) or b""
            except OSError as error:
                raise UsageError(
                    f"standard input cannot be read: {error.strerror}",
                    hint="give the path of a file",
                ) from error
        return self._start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._start:
            return self._raw.readinto(buffer) or 0  # type: ignore[attr-defined]
        size = min(len(buffer), len(self._start))
        buffer[:size] = self._start[:size]
        self._start = self._start[size:]
        return size
