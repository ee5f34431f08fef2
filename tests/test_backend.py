from pathlib import Path

import pytest

from mlserve.backend import Backend
from mlserve.errors import ModelLoadFailed


class Plain(Backend):
    name = "plain"
    summary = "plain files"
    install_hint = "nothing"
    files = ("*.plain", "*.Text")


@pytest.mark.parametrize(
    ("names", "file"),
    [
        (("my.plain", "labels.txt", "mlserve.json"), "my.plain"),
        (("MY.TEXT",), "MY.TEXT"),
        (("model.plain", "other.plain"), "model.plain"),
    ],
)
def test_the_file_of_a_version_is_the_exported_or_the_only_one(
    tmp_path: Path, names: tuple[str, ...], file: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert Plain.model_file(tmp_path, "model.plain", "model.text") == tmp_path / file


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("notes.txt",), r"it has no \*\.plain or \*\.Text$"),
        (("a.plain", "b.text"), "it has several: a.plain, b.text$"),
        (("model.plain", "model.text"), "it has several: model.plain, model.text$"),
        (None, "it does not exist$"),
    ],
)
def test_a_folder_without_that_one_file_is_refused(
    tmp_path: Path, names: tuple[str, ...] | None, why: str
) -> None:
    folder = tmp_path / "1"
    if names is not None:
        folder.mkdir()
    for name in names or ():
        (folder / name).touch()
    with pytest.raises(ModelLoadFailed, match=f"one file of a model for plain, and {why}") as found:
        Plain.model_file(folder, "model.plain", "model.text")
    assert "mlserve export --backend plain" in found.value.hint
