"""What a file is, by its name; and what a stream is, by its first bytes."""

from __future__ import annotations

import pytest

from mlserve.rows.kinds import FileKind, kind_by_content, kind_by_name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rows.csv", FileKind.CSV),
        ("ROWS.CSV", FileKind.CSV),
        ("a/b.tsv", FileKind.TSV),
        ("b.ndjson", FileKind.JSONL),
        ("b.npz", FileKind.NPZ),
        ("horse.jpg", FileKind.IMAGE),
        ("csv", FileKind.IMAGE),
        ("photos", FileKind.IMAGE),
    ],
)
def test_by_name(name: str, kind: FileKind) -> None:
    assert kind_by_name(name) is kind


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\xd8\xff\xe0 a,b\n", FileKind.IMAGE),
        (b"\x89PNG\r\n\x1a\n", FileKind.IMAGE),
        (b"", FileKind.IMAGE),
        (b"bad", FileKind.IMAGE),
        (b"/9j/4AAQSkZJRg==\n", FileKind.IMAGE),  # an image in base64
        (b"hello, world\n", FileKind.CSV),
        (b"hello, world", FileKind.IMAGE),
        (b"a,b\r\n1,2", FileKind.CSV),
        ("\ufeffä;b\n".encode(), FileKind.CSV),
        (b"a\tb\n", FileKind.CSV),
        (b"\xe4;b\n", FileKind.IMAGE),
        (b' {"a": 1}\n{"a": 2}', FileKind.JSONL),
        (b'{"a": 1}', FileKind.JSONL),
        (b'{"instances": [1]}', FileKind.JSON),
        (b'{\n"instances": [1]}', FileKind.JSON),
        (b'{"image": "/9j/4AAQ', FileKind.JSONL),
        (b'{"instances": ["/9j/4AAQ', FileKind.JSON),
        (b"[[1]]", FileKind.JSON),
        (b"\x93NUMPY\x01", FileKind.NPY),
        (b"PK\x03\x04", FileKind.NPZ),
    ],
)
def test_by_content(start: bytes, kind: FileKind) -> None:
    assert kind_by_content(start) is kind
