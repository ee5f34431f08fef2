"""`mlserve predict --expect`: labels from folders and files, against a server's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.cli.expect import expected_labels, in_words_of
from mlserve.client.answers import Score
from mlserve.errors import UsageError
from tests.harness.echo import PHOTO

MODEL = [Score("cat", 0.5, 0), Score("dog", 0.3, 1), Score("cow", 0.2, 2)]


def photos(folder: Path, *names: str) -> list[str]:
    """Write photos into the folder, and return their paths."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTO)
    return [str(path) for path in paths]


def test_a_folder_is_the_label_of_what_is_in_it(tmp_path: Path) -> None:
    names = photos(tmp_path / "all", "cat/1.jpg", "cat/white/2.jpg", "dog/3.jpg")
    found = expected_labels("folders", [str(tmp_path / "all")], names)
    alone = expected_labels("folders", [names[2]], names[2:])

    assert list(found.values()) == ["cat", "cat", "dog"]
    assert list(alone.values()) == ["dog"]


def test_an_image_in_no_folder_has_no_label(tmp_path: Path) -> None:
    names = photos(tmp_path, "cat/1.jpg", *(f"{number}.jpg" for number in range(7)))
    with pytest.raises(UsageError, match=r"no label for .*/0\.jpg.* and 2 more") as caught:
        expected_labels("folders", [str(tmp_path)], names)
    assert "labels.csv" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text",
    [
        'file,label\na.jpg,cat\nsub/b.jpg,"dog, wet"\n',
        'a.jpg,cat\nsub/b.jpg,"dog, wet"\n',
        "a.jpg\tcat\n./sub/b.jpg\tdog, wet\n",
        "id;label;file\n1;cat;a.jpg\n2;dog, wet;sub/b.jpg\n",
        'a.jpg,cat\nb.jpg,"dog, wet"\n',
    ],
    ids=["header", "no header", "tabs", "columns by name", "bare names"],
)
def test_a_file_lists_the_labels(tmp_path: Path, text: str) -> None:
    names = photos(tmp_path / "all", "a.jpg", "sub/b.jpg")
    (tmp_path / "labels.csv").write_text(text)
    found = expected_labels(str(tmp_path / "labels.csv"), [str(tmp_path / "all")], names)

    assert list(found.values()) == ["cat", "dog, wet"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.jpg,cat\n", r"has no label for .*b\.jpg"),
        ("file,label\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg has a second label, 'dog' after"),
        ("file,label\na.jpg\n", "line 2: 1 cell where the header has 2"),
        ("name,size,kind\n", "has the columns name, size, kind"),
        ("", "has no header"),
    ],
)
def test_a_file_that_does_not_tell_is_refused(tmp_path: Path, text: str, said: str) -> None:
    names = photos(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        expected_labels(str(tmp_path / "labels.csv"), names, names)


def test_a_bare_name_is_not_enough_for_two_images(tmp_path: Path) -> None:
    names = photos(tmp_path / "all", "a.jpg", "sub/a.jpg")
    (tmp_path / "labels.csv").write_text("file,label\na.jpg,cat\n")
    with pytest.raises(UsageError, match=r"has no label for .*sub/a\.jpg"):
        expected_labels(str(tmp_path / "labels.csv"), [str(tmp_path / "all")], names)


def test_numbers_are_those_of_the_classes() -> None:
    found, taken = in_words_of(MODEL, {"a": "2", "b": "0"})
    assert (dict(found), "numbers" in str(taken)) == ({"a": "cow", "b": "cat"}, True)
    assert in_words_of(MODEL, {"a": "cow"}) == ({"a": "cow"}, None)


def test_a_label_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="'Dog', expected of 2 images, is not a label") as caught:
        in_words_of(MODEL, {"a": "Dog", "b": "Dog", "c": "cat"})
    assert "did you mean dog?" in str(caught.value.hint)


@pytest.mark.server
def test_the_accuracy_and_what_was_confused(cli: Any, echo: Any, tmp_path: Path) -> None:
    photos(tmp_path, *(f"sorrel/{number}.jpg" for number in range(3)), "zebra/1.jpg")
    words = ("predict", tmp_path, "--expect", "folders", "--endpoint", echo.grpc, "--timeout", 60)

    text = cli(*words)
    data = cli(*words, "--output", "json").json()
    lines = cli(*words, "--output", "jsonl")

    assert text.stdout.splitlines()[0] == "accuracy 0.7500 (3 of 4)"
    assert [line.split() for line in text.stdout.splitlines()[3:]] == [
        ["EXPECTED", "sorrel", "zebra"],
        ["sorrel", "3", "."],
        ["zebra", "1", "."],
    ]
    assert (data["accuracy"], data["right"], data["accuracy_in_best"]) == (0.75, 3, 1.0)
    assert [row["expected"] for row in data["predictions"]] == ["sorrel"] * 3 + ["zebra"]
    assert len(lines.stdout.splitlines()) == 4
    assert "accuracy 0.7500" in lines.stderr
    assert {outcome.returncode for outcome in (text, lines)} == {0}


@pytest.mark.server
def test_an_image_with_an_error_is_not_counted(cli: Any, echo: Any, tmp_path: Path) -> None:
    photos(tmp_path, "sorrel/1.jpg", "zebra/1.jpg")
    (tmp_path / "zebra" / "1.jpg").write_bytes(b"bad")
    outcome = cli(
        "predict", tmp_path, "--expect", "folders", "--endpoint", echo.grpc, "--timeout", 60
    )

    assert outcome.returncode == 2
    assert outcome.stdout.splitlines()[0] == "accuracy 1.0000 (1 of 1)"
    assert "not counted: 1 image with an error" in outcome.stdout
    assert "zebra/1.jpg" in outcome.stderr


@pytest.mark.server
def test_a_folder_that_is_no_label_is_refused(cli: Any, echo: Any, tmp_path: Path) -> None:
    photos(tmp_path, "sorel/1.jpg")
    outcome = cli(
        "predict", tmp_path, "--expect", "folders", "--endpoint", echo.grpc, "--timeout", 60
    )

    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "'sorel', expected of 1 image, is not a label of the model" in outcome.stderr
    assert "did you mean sorrel?" in outcome.stderr
