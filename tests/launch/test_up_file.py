"""Servers of a configuration file, through the commands that a user types."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mlserve import Client
from mlserve.images import tiny_png
from mlserve.testing.processes import wait_until
from tests.harness.command import Command
from tests.harness.echo import put_version

pytestmark = pytest.mark.server
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

    _header, row, *models, where, random = cli("ps").stdout.splitlines()
    assert row.split() == ["line", "ready", "2", "models", row.split()[4], "embedded"]
    assert [line.strip() for line in models] == ["first (echo) latest", "second (echo) latest"]
    assert where.strip().startswith("grpc ")
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
    assert cli("down", "line").stdout == "line is stopped\n"


def test_ps_and_status_show_the_file_as_it_is_now(cli, describe, export) -> None:
    base, other = export("one"), export("other")
    describe(first=base)
    assert cli("up", "line").returncode == 0
    pid = cli.ps()[0]["pid"]

    bad = describe(LINE + "max_queue = 1\n", first=base)
    wait_until(lambda: "refused" in cli("status").stdout)
    status = cli("status")
    assert status.returncode == 0, "the old one goes on"
    assert f"{bad}:6:1: max_queue is not set until a restart" in status.stdout
    assert "line refused its configuration" in cli("ps").stderr
    assert cli.ps()[0]["config_problem"].startswith(f"{bad}:6:1: ")
    again = cli("up", "line")
    assert again.returncode == 2
    assert "line is already running with other settings" in again.stderr

    describe(first=base, added=other)
    os.kill(pid, signal.SIGHUP)
    joined = cli("up", "line")
    assert joined.returncode == 0, joined.stderr
    assert "line was already started" in joined.stderr
    assert joined.stdout.splitlines()[1] == "added version 1 is ready"
    [server] = cli.ps()
    assert [model["model"] for model in server["models"]] == ["first", "added"]
    assert server["config_problem"] is None


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
    assert "line was not ready in time: slow did not answer" in up.stderr
    assert cli.ps() == []


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
    from mlserve.errors import MlserveError

    try:
        return client.predict(tiny_png(), timeout=10).label
    except MlserveError:
        return None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lien",), "did you mean line?"),
        (("line", "--max-queue", "3"), "--max-queue is not for the server 'line'"),
        (("--threads", "1"), "--threads is not for the server 'line'"),
        (("line", "--backend", "echo"), "--backend is not for the server 'line'"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(
    cli, describe, export, arguments: tuple[str, ...], told: str
) -> None:
    describe(first=export("one"))

    up = cli("up", *arguments)

    assert up.returncode in (2, 5)
    assert told in up.stderr


def test_of_several_servers_one_has_to_be_named(cli, describe, export) -> None:
    path = describe(
        LINE + '[servers.other.models.x]\nbackend = "echo"\nmodel = "one"\n', first=export("one")
    )

    up = cli("up")

    assert up.returncode == 2
    assert f"{path} describes 2 servers: line, other" in up.stderr
    assert "mlserve up line" in up.stderr


@pytest.mark.parametrize("launcher", ["native", "docker"])
def test_other_launchers_do_not_follow_a_file(cli, describe, export, launcher: str) -> None:
    describe(LINE + f'launcher = "{launcher}"\n', first=export("one"))

    up = cli("up")

    assert up.returncode == 2
    assert f"the {launcher} launcher does not serve [servers.line]" in up.stderr
    assert "embedded" in up.stderr


def test_without_a_file_a_name_is_an_error(cli) -> None:
    up = cli("up", "line")

    assert up.returncode == 2
    assert "there is no configuration file that describes a server 'line'" in up.stderr
