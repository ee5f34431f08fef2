"""Servers of a configuration file, through the commands that a user types."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mlserve import Client, plugins
from mlserve.cli.up import described_in_file
from mlserve.config.document import Document, read_document
from mlserve.errors import MlserveError, NotFound, UsageError
from mlserve.images import tiny_png
from mlserve.launch.launchers import launcher_for
from mlserve.served_model import ServedModel
from mlserve.serving import ConfigEntry, Serving
from mlserve.settings import AUTO, DOCKER, EMBEDDED, NATIVE
from mlserve.testing.processes import wait_until
from tests.harness.command import Command
from tests.harness.echo import put_version

LINE = """
[servers.line]
grpc_port = 0
rest_port = 0
wait = 40
"""


@pytest.fixture
def describe(cli: Command):
    """`describe(a="folder")` writes mlserve.toml with a server `line` of these models."""

    def describe(text: str = LINE, **models: Path) -> Path:
        for name, path in models.items():
            text += f'[servers.line.models.{name}]\npath = "{path}"\nbackend = "echo"\n'
        new = cli.folder / "new.toml"
        new.write_text(text)
        return new.rename(cli.folder / "mlserve.toml")

    return describe


@pytest.mark.server
def test_a_server_of_two_models_from_up_to_down(cli, describe, export, photo: Path) -> None:
    one = export("one", label="sorrel")
    two = export("two", label="zebra", is_random=True)
    describe(first=one, second=two)

    up = cli("up")

    assert up.returncode == 0, up.stderr
    first, second, ready = up.stdout.splitlines()
    assert (first, second) == ("first version 1 is ready", "second version 1 is ready")
    assert ready.startswith("line is ready  grpc 127.0.0.1:")
    assert "second: random weights: its answers mean nothing" in up.stderr
    assert "next: mlserve predict FILE --timeout 5 --model first" in up.stderr

    _header, row, *models, first, second, where, random = cli("ps").stdout.splitlines()
    assert row.split() == ["line", "ready", "2", "models", row.split()[4], "embedded"]
    assert [line.strip() for line in models] == ["first (echo) latest", "second (echo) latest"]
    assert where.strip().startswith("grpc ")
    assert first.strip() == "first version 1: echo; fp32; unknown device; certificate=none"
    assert second.strip().startswith("second version 1: echo; ")
    assert "second" in random
    [server] = cli.ps()
    assert [model["model"] for model in server["models"]] == ["first", "second"]

    assert cli("predict", photo, "--model", "second", "--timeout", 20).stdout.strip() == "zebra"
    unnamed = cli("predict", photo, "--timeout", 20)
    assert unnamed.returncode == 2
    assert "error: line serves 2 models: first, second" in unnamed.stderr
    assert "--model first" in unnamed.stderr
    misspelt = cli("predict", photo, "--model", "secnd", "--timeout", 20)
    assert misspelt.returncode == 5
    assert "hint: did you mean second?" in misspelt.stderr
    at_endpoint = cli("metadata", "--endpoint", server["grpc"])
    assert "serves 2 models: first, second" in at_endpoint.stderr
    assert "second, version 1" in cli("metadata", "--model", "second").stdout

    table = cli("status").stdout.splitlines()
    assert [line.split() for line in table[:3]] == [
        ["MODEL", "VERSION", "STATE", "ERROR"],
        ["first", "1", "AVAILABLE"],
        ["second", "1", "AVAILABLE"],
    ]
    assert cli("status", "--model", "first").stdout.splitlines()[0].split()[0] == "VERSION"
    assert [model["model"] for model in cli.json("status")["models"]] == ["first", "second"]
    assert "version 1 of second is available" in cli("logs", "line").stdout

    describe("[servers.line\n")
    status = cli("status", "--model", "second")
    assert status.returncode == 0, "what runs can be seen and stopped, whatever the file says"
    assert "warning: mlserve.toml:1:14: this is not TOML" in status.stderr
    assert cli("down", "line").stdout == "line is stopped\n"


@pytest.mark.server
def test_two_names_of_one_folder_are_told_apart(cli, describe, export) -> None:
    export("one", 1)
    base = export("one", 2)
    describe(LINE + '[servers.line.models.old]\nmodel = "one"\nversion = 1\n', a=base, b=base)
    assert cli("up").returncode == 0
    assert [row["served_by"] for row in cli.json("models")] == [["line"], ["line"]]
    refused = cli("models", "rm", "one@2", "--yes")
    assert "error: echo/one@2 is served by a of line, b of line\n" in refused.stderr
    assert "mlserve down line" in refused.stderr
    used = cli("models", "use", "one@1")
    assert used.returncode == 0, used.stderr
    assert used.stdout.splitlines()[1:] == [
        "a of line serves version 1",
        "b of line serves version 1",
    ]
    used = cli("models", "use", "one@2")
    assert used.returncode == 5
    assert "error: old of line does not serve version 2\n" in used.stderr


@pytest.mark.server
def test_ps_and_status_show_the_file_as_it_is_now(cli, describe, export) -> None:
    base, other = export("one"), export("other")
    describe(first=base)
    assert cli("up", "line").returncode == 0
    pid = cli.ps()[0]["pid"]

    bad = describe(LINE + "max_queue = 1\n", first=base)
    wait_until(lambda: "refused" in cli("status").stdout)
    status = cli("status")
    assert status.returncode == 0, "the old one goes on"
    told = (
        f"line refused {bad} and goes on with what it said before: mlserve.toml:6:1: max_queue is "
        "not set until a restart"
    )
    assert told in status.stdout.replace("\n", " ")
    assert told in cli("ps").stderr.replace("\n", " ")
    assert cli.ps()[0]["config_problem"].startswith(told)
    again = cli("up", "line")
    assert again.returncode == 2
    assert "other settings: --max-queue is 1 here and" in again.stderr

    describe(first=base, added=other)
    os.kill(pid, signal.SIGHUP)
    joined = cli("up", "line")
    assert joined.returncode == 0, joined.stderr
    assert "line was already started" in joined.stderr
    assert joined.stdout.splitlines()[1] == "added version 1 is ready"
    [server] = cli.ps()
    assert [model["model"] for model in server["models"]] == ["first", "added"]
    assert server["config_problem"] is None


@pytest.mark.server
def test_up_names_the_models_that_do_not_get_ready(cli, describe, export, tmp_path: Path) -> None:
    describe(fine=export("fine"), broken=export("broken", fail_load="the disk is lost"))
    up = cli("up")
    assert up.returncode == 5
    assert "version 1 of broken is not served: the disk is lost" in up.stderr
    assert cli.ps() == []

    put_version(tmp_path / "slow" / "1", load_delay=60)
    describe(fine=export("fine", 2), slow=tmp_path / "slow")
    up = cli("up", "--wait", "4")
    assert up.returncode == 5
    assert "line was not ready in time: " in up.stderr
    assert "slow did not answer (last: " in up.stderr
    assert cli.ps() == []


@pytest.mark.server
def test_sighup_reaches_a_server_in_the_foreground(cli, describe, export) -> None:
    base = export("one", label="sorrel")
    describe(first=base)
    up = cli.start("up", "line", "--foreground")
    assert up.stdout is not None
    assert up.stdout.readline().startswith("first version 1 is ready")

    describe(second=base)
    up.send_signal(signal.SIGHUP)

    [server] = cli.ps()
    with Client(server["grpc"], model="second") as client:
        wait_until(lambda: _label(client) == "sorrel")
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=30)
    assert up.returncode == 0


def _label(client: Client) -> str | None:
    try:
        return client.predict(tiny_png(), timeout=10).label
    except MlserveError:
        return None


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("line", {"name", "max_queue"}, "--max-queue is not for the server 'line'"),
        (None, {"threads", "wait"}, "--threads is not for the server 'line'"),
        ("line", {"name", "backend"}, "--backend is not for the server 'line'"),
    ],
)
def test_options_beside_the_file_are_refused(
    tmp_path: Path, name: str | None, given: set[str], told: str
) -> None:
    document = document_of(tmp_path, ONE)

    with pytest.raises(UsageError, match=told) as caught:
        described_in_file(document, name, given)
    assert "in [servers.line]" in (caught.value.hint or "")


def test_which_server_of_the_file_is_meant(tmp_path: Path) -> None:
    one, two = document_of(tmp_path, ONE), document_of(tmp_path, ONE + ONE.replace("line", "two"))

    for found in (described_in_file(one, None, {"wait"}), described_in_file(two, "line", {"name"})):
        assert found is not None
        assert found.name == "line"
    assert described_in_file(one, None, {"model"}) is None, "options say what to serve"
    assert described_in_file(document_of(tmp_path, ""), None, set()) is None
    with pytest.raises(UsageError, match="describes 2 servers: line, two") as caught:
        described_in_file(two, None, set())
    assert "mlserve up line" in (caught.value.hint or "")
    with pytest.raises(NotFound, match="has no server 'lien'") as absent:
        described_in_file(one, "lien", {"name"})
    assert "did you mean line?" in (absent.value.hint or "")
    with pytest.raises(UsageError, match="no configuration file that describes a server 'line'"):
        described_in_file(None, "line", {"name"})


@pytest.mark.parametrize("launcher", [NATIVE, DOCKER])
def test_other_launchers_do_not_follow_a_file(launcher: str) -> None:
    config = ConfigEntry(Path("/etc/mlserve.toml"), "line")
    serving = Serving((ServedModel("echo", "m", Path("/m")),), config=config)

    with pytest.raises(UsageError, match=f"the {launcher} launcher does not serve") as caught:
        launcher_for([plugins.backend("echo")], serving, launcher)
    assert "--launcher embedded" in (caught.value.hint or "")
    assert launcher_for([plugins.backend("echo")], serving, AUTO) == EMBEDDED


ONE = """
[servers.line.models.m]
backend = "echo"
"""


def document_of(folder: Path, text: str) -> Document:
    (folder / "mlserve.toml").write_text(text)
    return read_document(folder / "mlserve.toml")
