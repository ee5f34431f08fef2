"""The labels of an artifact: what is written is what is read, or the label is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.artifact import LABELS_JSON_NAME, LABELS_NAME, Artifact, labels_text
from mlserve.errors import UsageError


def put(folder: Path, name: str, content: bytes) -> Artifact:
    folder.mkdir(exist_ok=True)
    for known in (LABELS_NAME, LABELS_JSON_NAME):
        (folder / known).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    return Artifact(folder, "m", 1, None)


@given(labels=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_labels_are_read_as_they_were_written(
    labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    has_break = any("\n" in label for label in labels)
    name = LABELS_JSON_NAME if has_break else LABELS_NAME
    folder = tmp_path_factory.getbasetemp() / "labels"
    assert put(folder, name, labels_text(labels)).labels() == tuple(labels)


def test_a_label_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    artifact = put(tmp_path / "1", LABELS_NAME, b"ox\ncaf\xe9\nzebra\n")
    with pytest.raises(UsageError, match=r"label 1 in .*labels.txt is not UTF-8: b'caf\\xe9'"):
        artifact.labels()


@pytest.mark.parametrize("content", [b"{", b'{"0": "ox"}', b"[1]"])
def test_labels_that_are_not_a_list_of_strings_are_refused(tmp_path: Path, content: bytes) -> None:
    artifact = put(tmp_path / "1", LABELS_JSON_NAME, content)
    with pytest.raises(UsageError, match=r"labels.json is not "):
        artifact.labels()
