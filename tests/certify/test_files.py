"""`mlserve certify` with files: an exported version against another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.certify.files import Answering, ImageFiles, TableFiles
from mlserve.client import Client
from mlserve.compare.asking import Served
from mlserve.compare.rows import question_in
from mlserve.compare.targets import ComparedTarget
from mlserve.rows.kinds import FileKind
from mlserve.store import Store

pytestmark = pytest.mark.server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two files that the echo backend takes for images, and one that it refuses."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in (("a.jpg", b"an image"), ("b.png", b"an image"), ("c.jpg", b"bad")):
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def donkeys(start_echo: Any) -> Any:
    """A server that answers every image with another label."""
    return start_echo(label="donkey", offset=0.5)


def answering(server: Any, name: str) -> Answering:
    target = ComparedTarget(name, "inception_v3", endpoint=server.grpc)
    return Answering(Served(target, server.grpc), Client(server.grpc, model="inception_v3"))


def silent(*_: object) -> None:
    """Show nothing."""


def test_images_are_compared_with_the_other_version(echo: Any, donkeys: Any, photos: Path) -> None:
    names = sorted(map(str, photos.iterdir()))
    files = ImageFiles(names, timeout=20)
    right, wrong = answering(echo, "echo/m@1"), answering(donkeys, "echo/m@2")
    with right.client, wrong.client:
        found = files.ask(right, right, classes=5, tolerance=1e-4, progress=silent)
        assert (found.count, found.refused, found.same, found.difference) == (3, 1, 2, 0.0)
        assert found.holds
        assert found.margins == pytest.approx([0.25, 0.25])
        assert found.near(0.3) == 2
        found = files.ask(wrong, right, classes=5, tolerance=1e-4, progress=silent)
        assert (found.same, found.against) == (0, "echo/m@1")
        assert [problem.name for problem in found.problems] == names[:2]
        assert found.problems[0].what == "'donkey' instead of 'sorrel'"
        found = files.ask(wrong, right, classes=5, tolerance=0.5, progress=silent)
        assert (found.same, found.holds) == (0, True)  # the two best are closer than that
        alone = files.ask(right, None, classes=5, tolerance=1e-4, progress=silent)
        assert (alone.same, alone.against, list(alone.lines())) == (None, None, [])


def test_rows_are_compared_with_the_other_version(echo: Any, donkeys: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n3,4\n")
    question = question_in([(str(rows), FileKind.CSV)], "two", None)
    files = TableFiles(question, 20, silent)
    right, wrong = answering(echo, "echo/m@1"), answering(donkeys, "echo/m@2")
    with right.client, wrong.client:
        found = files.ask(right, right, classes=None, tolerance=1e-4, progress=silent)
        assert (found.count, found.same, found.holds) == (2, 2, True)
        found = files.ask(wrong, right, classes=None, tolerance=1e-4, progress=silent)
    assert (found.count, found.same, found.noun) == (2, 0, "row")
    assert found.difference == pytest.approx(0.5 / 3)  # relative to the larger numbers
    assert found.problems[0].name == f"{rows}, row 1 (line 2)"


def test_the_command(cli: Any, export: Any, photos: Path, tmp_path: Path) -> None:
    export()
    nothing = cli("certify")
    assert nothing.returncode == 2
    assert nothing.stdout.startswith("echo/m@1: not checked\n  it has no certificate")
    assert "error: nothing could be checked" in nothing.stderr
    export(version=2)
    done = cli("certify", "--against", "m@1", photos)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "  identical on 2 of your 3 images (1 refused by both), against echo/m@1",
        "  largest difference 0; 0.0002 is allowed",
    ]
    export(version=3, label="donkey")
    wrong = cli("certify", "--against", "m@1", photos, "--output", "json")
    assert wrong.returncode == 8
    [found] = wrong.json()["versions"]
    assert (found["name"], found["outcome"]) == ("echo/m@3", "drifted")
    stray = Store().base_path("nothing", "m") / "1"
    stray.mkdir(parents=True)
    both = cli("certify", "--against", "echo/m@1", photos)
    assert both.returncode == 8
    assert "nothing/m@1: not checked" in both.stdout
    assert both.stdout.splitlines()[0].endswith("): drifted")
    export(version=4, fail_load="it is of wood")
    failed = cli("certify", "--backend", "echo", "--against", "echo/m@1", photos)
    assert failed.returncode == 8
    assert failed.stdout.startswith("echo/m@4: failed\n")
    assert "it is of wood" in failed.stdout


WRONG = {
    ("--against", "m@1"): "--against compares the answers to files, and none is given",
    ("--against", "m@1", "--version", "1", "a.jpg"): "echo/m@1 would be compared with itself",
    ("--against", "m@7", "a.jpg"): "echo/m has no version 7",
    ("--model", "m", "rows.csv"): "echo/m@1 is an image classifier, and rows.csv is not what it",
    ("--token-file", "token"): "--token-file is for a server, and none is named",
    ("--model", "m", "-"): "standard input (-) is not read by this command",
    ("--backend", "nothing"): "no exported model matches 'nothing'",
    ("--endpoint", "127.0.0.1:1"): "127.0.0.1:1 is held to one certificate, and several versions",
    ("a.jpg",): "files are asked about with one model, and 2 were exported: m, n",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_calls(
    export: Any, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from mlserve.cli.app import app

    export()
    export("n")
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"an image")
    Path("rows.csv").write_text("a,b\n1,2\n")
    done = CliRunner().invoke(app, ["certify", *words], catch_exceptions=False)
    assert done.exit_code == 2
    assert WRONG[words] in " ".join(done.stderr.split())
    assert "hint: " in done.stderr
