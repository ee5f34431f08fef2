"""Label files: what is taken, and what is an error that says where."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from mlserve.errors import ExportError, UsageError
from mlserve.labels import read_labels, repeated


def _read(tmp_path: Path, data: bytes, name: str = "labels.txt") -> tuple[str, ...]:
    path = tmp_path / name
    path.write_bytes(data)
    return read_labels(path)


def test_lines_are_read_without_their_ends_and_blank_lines_at_the_end(tmp_path: Path) -> None:
    text = "\N{BYTE ORDER MARK}gut\r\nschad  haft\r\nÄtzfehler\t\n\n \r\n"
    assert _read(tmp_path, text.encode()) == ("gut", "schad  haft", "Ätzfehler")


@pytest.mark.parametrize(
    "inside", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\t"]
)
def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path, inside: str) -> None:
    labels = (f"a{inside}b", "16:9")
    assert _read(tmp_path, "\n".join(labels).encode()) == labels


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("labels.json", {"1": "dog", "0": "cat"}),
        ("labels.txt", {"0": "cat", "1": "dog"}),
        ("config.json", {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}}),
        ("labels.json", ["cat", "dog"]),
        ("labels.txt", ["cat", "dog"]),
    ],
)
def test_json_is_taken(tmp_path: Path, name: str, data: object) -> None:
    assert _read(tmp_path, json.dumps(data, indent=1).encode(), name) == ("cat", "dog")


def test_a_first_line_in_brackets_is_no_json(tmp_path: Path) -> None:
    assert _read(tmp_path, b"[unknown]\ncat\n") == ("[unknown]", "cat")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no labels"),
        (b"\n \n", "holds no labels"),
        (b"a\n\nb\n", "line 2 of .* is blank"),
        (b"\xff", "cannot be read"),
        (b'{"0": "cat", "2": "dog", "5": "ox"}', r"up to class 5 but none for class 1"),
        (b'{"0": "cat", "999999": "dog"}', r"up to class 999999 but none for class 1"),
        (b'{"0": "cat", "0": "dog"}', "gives class 0 two labels"),
        (b'{"0": "cat", "00": "dog"}', "gives class 0 two labels"),
        (b'{"id2label": {"0": "cat", "0": "dog"}}', "gives class 0 two labels"),
        (b'{"cat": 0, "dog": 1}', "the key 'cat', which is not a class number"),
        (b'{"-1": "cat"}', "the key '-1', which is not a class number"),
        (b'{"id2label": ["cat"]}', "id2label in .* is not an object"),
        (b'{"0": ["n01440764", "tench"]}', "class 0 in .* is .*, not a text"),
        (b'["cat", ""]', 'class 1 in .* is "", not a text'),
        (b'["cat", 7]', "class 1 in .* is 7, not a text"),
        (b'{"0": "cat"', "is not valid JSON"),
        (b"{}", "holds no labels"),
    ],
)
def test_a_file_that_does_not_give_each_class_one_label_is_an_error(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        _read(tmp_path, data)
    assert caught.value.hint
    assert str(tmp_path / "labels.txt") in caught.value.message


def test_a_json_file_of_one_word_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="neither an object nor a list"):
        _read(tmp_path, b'"cat"', "labels.json")


def test_a_folder_and_a_file_that_is_absent_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read: Is a directory"):
        read_labels(tmp_path)
    with pytest.raises(UsageError, match=r"no\.txt: there is no such file"):
        read_labels(tmp_path / "no.txt")


def test_a_file_is_read_once_so_that_a_pipe_will_do(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"cat\ndog\n",))
    writer.start()
    assert read_labels(pipe) == ("cat", "dog")
    writer.join()


def test_labels_of_several_classes_are_found_with_their_classes() -> None:
    assert repeated(("crane", "ox", "crane", "ox", "crane", "cat")) == {
        "crane": [0, 2, 4],
        "ox": [1, 3],
    }
