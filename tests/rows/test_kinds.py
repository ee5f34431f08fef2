"""What a file is, by its name; and what a stream is, by its first bytes."""

from __future__ import annotations

import pytest

from mlserve.rows.kinds import Kind, kind_by_content, kind_by_name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rows.csv", Kind.CSV),
        ("ROWS.CSV", Kind.CSV),
        ("a/b.tsv", Kind.TSV),
        ("b.ndjson", Kind.JSONL),
        ("b.npz", Kind.NPZ),
        ("horse.jpg", Kind.IMAGE),
        ("csv", Kind.IMAGE),
        ("photos", Kind.IMAGE),
    ],
)
def test_by_name(name: str, kind: Kind) -> None:
    assert kind_by_name(name) is kind


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\xd8\xff\xe0 a,b\n", Kind.IMAGE),
        (b"\x89PNG\r\n\x1a\n", Kind.IMAGE),
        (b"", Kind.IMAGE),
        (b"bad", Kind.IMAGE),
        (b"/9j/4AAQSkZJRg==\n", Kind.IMAGE),  # an image in base64
        (b"hello, world\n", Kind.CSV),
        (b"hello, world", Kind.IMAGE),
        (b"a,b\r\n1,2", Kind.CSV),
        ("\ufeffä;b\n".encode(), Kind.CSV),
        (b"a\tb\n", Kind.CSV),
        (b"\xe4;b\n", Kind.IMAGE),
        (b' {"a": 1}\n{"a": 2}', Kind.JSONL),
        (b'{"a": 1}', Kind.JSONL),
        (b'{"instances": [1]}', Kind.JSON),
        (b'{\n"instances": [1]}', Kind.JSON),
        (b"[[1]]", Kind.JSON),
        (b"\x93NUMPY\x01", Kind.NPY),
        (b"PK\x03\x04", Kind.NPZ),
    ],
)
def test_by_content(start: bytes, kind: Kind) -> None:
    assert kind_by_content(start) is kind
