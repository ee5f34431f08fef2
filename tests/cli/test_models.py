"""`mlserve models` as commands: what they print where, what they ask, and their exit codes."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.artifact import MANIFEST_NAME
from mlserve.cli.app import app
from mlserve.cli.model_arguments import complete_model, complete_target
from mlserve.pin import read_pin, write_pin
from mlserve.store import Store

Put = Callable[..., Path]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def data(*arguments: str, code: int = 0) -> Any:
    found, out, err = run(*arguments, "--output", "json")
    assert found == code, err
    return json.loads(out)


@pytest.fixture
def base(export: Put) -> Path:
    """The folder of the model `m` with the versions 1 to 3."""
    for version in (1, 2, 3):
        base = export(version=version)
    return base


def damage(folder: Path) -> None:
    (folder / "echo.json").write_text("[]")


def test_an_empty_store_says_how_to_fill_it() -> None:
    code, out, err = run()
    assert (code, out) == (0, "")
    assert err == f"no model has been exported into {Store().root}; export one: mlserve export\n"
    assert data("list") == []
    code, out, err = run("verify")
    assert (code, out) == (2, ""), "nothing is damaged where nothing is"
    assert "there is no version to check" in err


def test_the_list_has_a_line_a_version_and_the_reason_below(base: Path) -> None:
    (base / "2" / "echo.json").unlink()
    (base / "3" / MANIFEST_NAME).write_text('{"format": 99, "mlserve": "9.0"}')
    write_pin(base, 1)
    code, out, err = run()
    header, *lines = out.splitlines()
    assert (code, err) == (0, "")
    columns = "BACKEND MODEL VERSION PRECISION SIZE AGE SERVED BY SOURCE"
    assert header.split() == columns.split()
    assert lines[0].split()[:4] == ["echo", "m", "1", "(pinned)"]
    assert lines[2] == "    echo.json is missing"
    assert "was written by a newer mlserve, 9.0" in " ".join(lines[4:])
    assert run("list")[1] == out
    assert lines[0].split()[4] == "fp32"
    assert [row["state"] for row in data()] == ["whole", "damaged", "newer"]
    assert [row["precision"] for row in data()] == ["fp32", "fp32", None]


def test_the_list_can_be_narrowed(base: Path, export: Put) -> None:
    export("n")
    assert [(row["model"], row["version"]) for row in data("--model", "n")] == [("n", 1)]
    assert len(data("list", "--backend", "echo")) == 4
    code, _, err = run("--backend", "tfserving")
    assert code == 2
    assert "error: no exported model matches 'tfserving' (exported: echo/m, echo/n)\n" in err


def test_a_pin_without_a_version_is_warned_of(base: Path) -> None:
    write_pin(base, 9)
    assert f"warning: {base} has no version 9, which is pinned (there: 1, 2, 3)" in run()[2]


def test_show_has_the_contract_the_files_and_one_digest(base: Path) -> None:
    code, out, _ = run("show", "m@2")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "model    m, version 2, for echo"
    assert "labels   2" in lines
    assert "input    JPEG or PNG -> 8x8 RGB" in lines
    assert "served   by no server" in lines
    assert [line.split()[1] for line in lines if line.startswith("file ")] == [
        *("echo.json", "labels.txt", MANIFEST_NAME)
    ]
    shown = data("show", "echo/m@2")
    assert lines[-1] == f"digest   {shown['digest']}"
    assert shown["digest"] == data("show", "m@1")["digest"], "its files are the same"
    assert shown["labels"] == 2
    assert set(shown["manifest"]["files"]) == {"echo.json", "labels.txt"}


def test_show_takes_the_pinned_version_or_the_latest_whole_one(base: Path) -> None:
    (base / "3" / "echo.json").unlink()
    assert data("show")["version"] == 2
    write_pin(base, 1)
    assert data("show")["version"] == 1
    (base / "2" / MANIFEST_NAME).write_text("{")
    code, out, _ = run("show", "m@2")
    assert code == 0
    assert "PROBLEM  " in out


def test_verify_names_each_wrong_file_and_tells_it_by_its_exit_code(base: Path) -> None:
    assert run("verify") == (0, "echo/m@1  ok\necho/m@2  ok\necho/m@3  ok\n", "")
    damage(base / "2")
    (base / "3" / MANIFEST_NAME).write_text('{"format": 99, "mlserve": "9.0"}')
    code, out, _ = run("verify")
    assert code == 8
    assert out.splitlines()[:3] == [
        "echo/m@1  ok",
        "echo/m@2  damaged",
        "    echo.json was changed",
    ]
    assert "echo/m@3  not checked: " in out
    [found] = data("verify", "m@2", code=8)
    assert (found["outcome"], found["faults"]) == ("damaged", {"echo.json": "was changed"})


class Terminal(io.StringIO):
    """Standard input with a person before it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("words", "function"),
    [
        (("rm", "m@1", "m@2", "--yes"), "mlserve.store_changes.remove"),
        (("verify", "m"), "mlserve.inventory.check"),
    ],
)
def test_json_tells_what_was_done_before_an_interrupt(
    base: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], function: str
) -> None:
    module, _, name = function.rpartition(".")
    whole = getattr(importlib.import_module(module), name)
    calls: list[Any] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(function, interrupted)
    done = data(*words, code=130)
    assert [each["version"] for each in done] == [1]


@pytest.mark.parametrize(("said", "left"), [("y\n", [1, 3]), ("\n", [1, 2, 3]), ("", [1, 2, 3])])
def test_rm_asks_on_a_terminal(
    base: Path, monkeypatch: pytest.MonkeyPatch, said: str, left: list[int]
) -> None:
    monkeypatch.setattr("mlserve.cli.model_changes.sys.stdin", Terminal(said))
    from mlserve.cli.model_changes import rm

    rm(["m@2"])
    assert Store().versions("echo", "m") == left


def test_rm_does_not_ask_a_pipe(base: Path) -> None:
    code, _, err = run("rm", "m@2")
    assert code == 2
    assert "error: this command asks before it removes anything" in err
    assert "hint: add --yes" in err
    assert run("rm", "m@2", "echo/m@2", "--yes") == (0, "echo/m@2 is removed\n", "")


def test_rm_removes_none_if_one_is_wrong(base: Path) -> None:
    assert run("rm", "m@2", "m@7", "--yes")[0] == 2
    code, _, err = run("rm", "m", "--yes")
    assert code == 2
    assert "hint: name what to remove: echo/m@1, echo/m@2, echo/m@3\n" in err
    write_pin(base, 1)
    code, _, err = run("rm", "m@2", "m@1", "--yes")
    assert (code, "error: echo/m@1 is pinned: servers serve it\n" in err) == (2, True)
    assert Store().versions("echo", "m") == [1, 2, 3]
    assert run("rm", "m@1", "--yes", "--force")[0] == 0
    assert read_pin(base) is None


def test_copy_needs_a_place_and_prints_the_new_one(base: Path, tmp_path: Path) -> None:
    code, _, err = run("copy", "m@2")
    assert code == 2
    assert "hint: say where it goes: --to-store DIR, --to-model NAME or --to-version N\n" in err
    code, out, _ = run("copy", "m@2", "--to-store", str(tmp_path / "other"))
    assert (code, out) == (0, f"{tmp_path}/other/echo/m/2\n")
    code, _, err = run("copy", "m@2", "--to-store", str(tmp_path / "other"))
    assert (code, "version 2 is there already" in err) == (4, True)
    assert "hint: give the copy another number, --to-version N" in err
    assert data("copy", "m", "--to-model", "canary")["version"] == 3


def test_prune_keeps_the_highest_of_each_model(base: Path, export: Put) -> None:
    export("n")
    told = run("prune", "--keep", "1", "--dry-run")
    assert told == (0, "echo/m@1 would be removed\necho/m@2 would be removed\n", "")
    assert run("prune", "m@1")[0] == 2
    write_pin(base, 1)
    assert [row["version"] for row in data("prune", "m", "--keep", "1", "--yes")] == [2]
    assert Store().versions("echo", "m") == [1, 3]
    assert run("prune", "--keep", "1", "--yes") == (0, "", "there is nothing to remove\n")


def test_use_says_what_stays_after_an_interrupt(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Any, version: int, *_: object) -> None:
        write_pin(folder.base_path, version)
        raise KeyboardInterrupt

    monkeypatch.setattr("mlserve.launch.switch.switch", interrupted)
    code, out, err = run("use", "2")
    assert (code, out) == (130, "")
    assert "the pin of echo/m stays at version 2, and running servers go on to it" in err


def test_use_pins_also_where_no_server_runs(base: Path) -> None:
    code, out, err = run("use", "2")
    assert (code, out) == (0, "echo/m is pinned to version 2\n")
    assert (
        err
        == "no server of this model is running; the next one will serve this version: mlserve up\n"
    )
    assert data("use", "latest")["pin"] is None
    assert run("use", "1", "--path", str(base))[0] == 0
    assert read_pin(base) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["use", "m"], "'m' does not say which version to use"),
        (["use", "v2"], "give its number: mlserve models use 2"),
        (["use", "m@x"], "'x' is not a number"),
        (["use", "9"], "echo/m has no version 9 (there: 1, 2, 3)"),
        (["use", "n@1"], "no exported model matches 'n'"),
        (["use", "m@1", "--path", "x"], "--path names a model's folder"),
        (["use", "1", "--path", "/nowhere"], "/nowhere"),
        (["use", "1", "--timeout", "nan"], "--timeout"),
        (["shwo"], "'shwo' is not a command of mlserve models"),
    ],
)
def test_what_is_wrong_is_named(base: Path, words: list[str], told: str) -> None:
    code, _, err = run(*words)
    assert (code, told in err) == (2, True), err
    assert read_pin(base) is None


def test_an_export_under_a_pin_says_that_it_is_not_served(export: Put) -> None:
    base = export("echo")
    write_pin(base, 1)
    told = CliRunner().invoke(app, ["export", "--backend", "echo", "--model", "echo"]).stderr
    assert f"pinned   servers stay with version 1; to serve the latest version: {''}" in told


class Words:
    """The context of a shell's completion, with the options given so far."""

    def __init__(self, **params: object) -> None:
        self.params = params


def test_a_shell_completes_models_and_versions(base: Path, export: Put) -> None:
    assert complete_target(Words(), "") == ["1", "2", "3", "latest", "m", "echo/m"]
    export("inception")
    assert complete_model(Words(), "") == ["inception", "m", "echo/inception", "echo/m"]
    assert complete_model(Words(), "m@") == ["m@1", "m@2", "m@3"]
    assert complete_model(Words(), "echo/m@2") == ["echo/m@2"]
    assert complete_target(Words(model="m"), "") == ["1", "2", "3", "latest", "m", "echo/m"]
    Store().root.joinpath("file").write_text("")
    assert complete_model(Words(store=Store().root / "file"), "") == []
