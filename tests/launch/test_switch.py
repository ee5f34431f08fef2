"""`mlserve models use` switches running servers, loses nothing, and takes a failure back."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from mlserve.cli.app import app
from mlserve.errors import DeadlineExceeded, ModelLoadFailed, NotFound, Unavailable
from mlserve.inventory import ModelFolder
from mlserve.launch.switch import switch
from mlserve.pin import read_pin, write_pin
from mlserve.testing.processes import wait_until
from tests.harness.load import Load

pytestmark = pytest.mark.server


def answer(server: dict[str, Any]) -> str:
    reply = httpx.post(f"{server['rest']}/v1/models/m:predict", json={"inputs": ["x"]})
    return str(reply.json()["outputs"][0])


def models(*words: str) -> Result:
    """Run `mlserve models` in this process."""
    return CliRunner().invoke(app, ["models", *words], catch_exceptions=False)


def quiet(_: str) -> None:
    """Show nothing."""


def test_a_server_rolls_back_and_forth_under_load_and_loses_nothing(
    cli: Any, export: Callable[..., Path]
) -> None:
    base = export(version=1, label="one", delay=0.02, load_delay=0.2)
    export(version=2, label="two", delay=0.02, load_delay=0.2)
    assert cli.up().returncode == 0
    [server] = cli.ps()
    load = Load(server["grpc"], server["rest"].removeprefix("http://"), "m", clients=1)
    load.start()
    try:
        wait_until(lambda: load.answered > 50)
        assert answer(server) == "two"
        for target, label, pin in (("1", "one", 1), ("latest", "two", None), ("m@1", "one", 1)):
            used = models("use", target)
            assert used.exit_code == 0, used.stderr
            assert f"echo-m serves version {1 if pin else 2}\n" in used.stdout
            assert (answer(server), read_pin(base)) == (label, pin)
        answered = load.answered
        export(version=3, label="three")  # it is not taken up
        refused = models("rm", "m@1", "m@2", "--yes")
        assert refused.exit_code == 2
        assert "error: echo/m@1 is served by echo-m\n" in refused.stderr
        removed = models("rm", "m@2", "--yes")
        assert removed.stdout == "echo/m@2 is removed\n"
        wait_until(lambda: load.answered > answered + 50)
        assert answer(server) == "one"
    finally:
        load.stop()
    assert load.lost == []
    assert load.refused == 0
    [listed] = [row for row in json.loads(models("--output", "json").stdout) if row["served_by"]]
    assert (listed["version"], listed["served_by"], listed["is_pinned"]) == (1, ["echo-m"], True)


@pytest.fixture
def folder(export: Callable[..., Path]) -> ModelFolder:
    """A model whose version 2 can be served, and whose version 1 cannot."""
    export(version=1, fail_load="the runtime does not know this operator")
    return ModelFolder("echo", "m", export(version=2))


def test_a_version_that_does_not_load_changes_nothing_and_a_late_server_is_named(
    cli: Any, folder: ModelFolder
) -> None:
    assert cli.up().returncode == 0
    switched = switch(folder, 2, 20, quiet)
    assert [record.name for record in switched.servers] == ["echo-m"]
    with pytest.raises(ModelLoadFailed, match="does not know this operator") as failed:
        switch(folder, 1, 20, quiet)
    assert failed.value.message.startswith("echo-m cannot load version 1: ")
    assert read_pin(folder.base_path) == 2
    [server] = cli.ps()
    assert answer(server) == "sorrel"
    write_pin(folder.base_path, None)
    os.kill(server["pid"], signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded, match="echo-m does not serve version 2 yet") as late:
            switch(folder, 2, 0.2, quiet)
    finally:
        os.kill(server["pid"], signal.SIGCONT)
    assert "mlserve status --server echo-m" in str(late.value.hint)
    assert read_pin(folder.base_path) == 2, "it goes on"


def test_a_damaged_version_is_refused_before_any_server_hears_of_it(folder: ModelFolder) -> None:
    path = folder.base_path / "1" / "echo.json"
    path.write_bytes(path.read_bytes().upper())
    with pytest.raises(ModelLoadFailed, match=r"1/echo.json was changed"):
        switch(folder, 1, 20, quiet)
    with pytest.raises(NotFound, match=r"has no version 9 \(there: 1, 2\)"):
        switch(folder, 9, 20, quiet)
    assert read_pin(folder.base_path) is None


def test_a_pin_stays_while_the_latest_version_is_damaged_and_the_hint_is_the_way_out(
    folder: ModelFolder,
) -> None:
    write_pin(folder.base_path, 1)
    (folder.base_path / "2" / "echo.json").write_text("changed")
    with pytest.raises(ModelLoadFailed, match=r"2/echo.json has 7 bytes") as raised:
        switch(folder, None, 20, quiet)
    assert f"rm -r {folder.base_path}/2, and use latest again" in str(raised.value.hint)
    assert read_pin(folder.base_path) == 1
    shutil.rmtree(folder.base_path / "2")
    assert switch(folder, None, 20, quiet).version == 1
    assert read_pin(folder.base_path) is None


def test_a_version_that_is_being_copied_is_not_pinned(folder: ModelFolder) -> None:
    (folder.base_path / "2" / "mlserve.json").unlink()
    with pytest.raises(ModelLoadFailed, match=r"echo/m@2: it has no mlserve.json"):
        switch(folder, 2, 20, quiet)
    assert read_pin(folder.base_path) is None


def test_a_pin_that_another_command_sets_meanwhile_stays(cli: Any, folder: ModelFolder) -> None:
    assert cli.up().returncode == 0

    def other(told: str) -> None:
        if told.startswith("echo-m"):
            write_pin(folder.base_path, 2)

    with pytest.raises(Unavailable, match="echo/m@2 was pinned by another command meanwhile"):
        switch(folder, 1, 20, other)
    assert read_pin(folder.base_path) == 2


def test_a_model_that_was_unloaded_is_not_waited_for(
    cli: Any, export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlserve.launch.followers._STALE", 0.0)
    export(version=1)
    base = export(version=2)
    assert cli.up().returncode == 0
    [server] = cli.ps()
    httpx.post(f"{server['rest']}/v2/repository/models/m/unload").raise_for_status()
    switched = switch(ModelFolder("echo", "m", base), 1, 30, quiet)
    [(use, advice)] = switched.others
    assert (use.label, switched.servers) == ("echo-m", ())
    assert f"POST {server['rest']}/v2/repository/models/m/load" in advice
    assert read_pin(base) == 1


def test_a_server_of_named_versions_is_told_of(cli: Any, export: Callable[..., Path]) -> None:
    export(version=1)
    write_pin(export(version=2), 1)
    started = cli.up("--version", "2")
    assert started.stdout.startswith("m version 2 is ready")
    assert "version 1 of m is pinned; --version takes precedence over it\n" in started.stderr
    used = models("use", "1")
    assert used.exit_code == 5
    assert used.stdout == "echo/m is pinned to version 1\n"
    assert "error: echo-m does not serve version 1\n" in used.stderr
    assert "it was started with --version, which takes precedence; restart it: " in used.stderr
    assert models("use", "2").exit_code == 0, "that is what it serves"
