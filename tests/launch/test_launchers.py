"""A launcher of a plugin, with replicas behind an address: every command works as for a process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlserve import plugins
from mlserve.backend import Listen
from mlserve.cli.app import app
from mlserve.client import AsyncClient, Client
from mlserve.cluster_options import ClusterOptions
from mlserve.errors import ModelLoadFailed, UsageError
from mlserve.inventory import ModelFolder
from mlserve.launch.launchers import launcher_for, launcher_named
from mlserve.launch.records import read_records
from mlserve.launch.switch import switch
from mlserve.load_options import LoadOptions
from mlserve.pin import read_pin
from mlserve.served_model import ServedModel
from mlserve.serving import ConfigEntry, Serving
from mlserve.settings import AUTO, DOCKER, EMBEDDED, NATIVE, ModelControl, ServerSettings
from mlserve.wire.replicas import RollingState
from tests.harness import fleet
from tests.harness.command import Command
from tests.harness.plugin_site import Site

pytestmark = pytest.mark.server
_CHECKOUT = Path(__file__).parents[2]


def run(*words: str) -> Result:
    """Run a command in this process, where the plugin is not installed."""
    return CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.fixture
def with_fleet(cli: Command, tmp_path: Path) -> Command:
    """The command line, where a plugin provides the launcher `fleet`."""
    site = Site(tmp_path / "site")
    site.folder.mkdir()
    site.add("fleet-plugin", "fleet", fleet.plugin())
    cli.env["PYTHONPATH"] = os.pathsep.join((str(site.folder), str(_CHECKOUT)))
    return cli


def test_a_server_of_a_plugin_lives_as_any_other(
    with_fleet: Command, export: Callable[..., Path]
) -> None:
    base = export(version=1, label="one")
    export(version=2, label="two")
    up = with_fleet.up("--launcher", "fleet", "--replicas", "1..4")
    assert up.returncode == 0, up.stderr
    again = with_fleet.up("--launcher", "fleet", "--replicas", "1..4")
    assert "echo-m was already started" in again.stderr
    other = with_fleet.up("--launcher", "fleet", "--replicas", "2")
    assert other.returncode == 2
    assert "--replicas is 2 here and 1..4 there" in other.stderr

    [server] = json.loads(run("ps", "--output", "json").stdout)
    assert (server["launcher"], server["status"]) == ("fleet", "ready")
    assert server["cluster"]["replicas"] == "1..4"
    assert server["replicas"]["scale"] == {"least": 1, "most": 4, "wanted": 1}
    assert "replicas: 1 of 1 ready on 1 node, 2 in flight" in run("ps").stdout

    status = run("status")
    assert status.exit_code == 0, status.stderr
    shown = [line.split() for line in status.stdout.splitlines()]
    assert "replicas: 1 of 1 ready on 1 node, 2 in flight, 1 to 4 by the load" in status.stdout
    assert "1003 since the start, 4 asked again at another replica" in status.stdout
    [at] = [number for number, words in enumerate(shown) if words[:1] == ["r-1"]]
    assert shown[at][1:] == ["ready", "2", "2", "0.250", "s", "3", "1000"]
    assert shown[at + 1][:2] == ["node-a", "at"]
    told = json.loads(run("status", "--output", "json").stdout)
    assert told["replicas"]["replicas"][0]["versions"] == [
        {"version": 2, "state": "AVAILABLE", "error": ""}
    ]
    named = run("status", "--endpoint", server["rest"], "--output", "json")
    assert json.loads(named.stdout)["replicas"] == told["replicas"]
    over_grpc = run("status", "--endpoint", server["grpc"], "--output", "json")
    assert json.loads(over_grpc.stdout)["replicas"] is None

    unknown = run("why", "none")
    assert unknown.exit_code == 2
    assert "the replica that was asked remembers no call 'none'" in unknown.stderr
    assert "the decisions of one replica" in run("audit").stderr

    used = run("models", "use", "m@1")
    assert used.exit_code == 0, used.stderr
    assert "echo-m serves version 1\n" in used.stdout
    with Client(server["grpc"], model="m") as client:
        assert client.predict(b"fine").label == "one"
    in_use = run("models", "rm", "m@1", "--yes")
    assert "error: echo/m@1 is pinned" in in_use.stderr or "is served by echo-m" in in_use.stderr
    assert read_pin(base) == 1

    down = run("down")
    assert down.stdout == "echo-m is stopped\n", down.stderr
    assert read_records() == []
    log = run("logs").stdout
    assert "tests.harness.fleet" in log
    assert "drain" in log


def test_a_version_that_a_replica_refuses_is_taken_back(
    with_fleet: Command, export: Callable[..., Path]
) -> None:
    base = export(version=1, fail_load="the runtime does not know this operator")
    export(version=2)
    folder = ModelFolder("echo", "m", base)
    assert with_fleet.up("--launcher", "fleet").returncode == 0
    told: list[str] = []
    assert switch(folder, 2, 20, told.append).version == 2
    for _ in range(2):  # the second is not taken for the first
        with pytest.raises(ModelLoadFailed, match="does not know this operator") as failed:
            switch(folder, 1, 20, told.append)
        assert failed.value.message.startswith("echo-m cannot load version 1: ")
        assert read_pin(base) == 2
    assert "echo-m: 0 of 1 replicas serve version 1" in told
    [record] = read_records()
    with Client(record.rest_endpoint) as client:
        found = client.replicas()
    assert found is not None
    assert found.ready[0].available == {2}
    assert found.rolling is not None
    assert found.rolling.state in (RollingState.DONE, RollingState.ROLLING)


def test_a_model_that_does_not_load_ends_the_start_with_its_reason(
    with_fleet: Command, export: Callable[..., Path]
) -> None:
    export(fail_load="the runtime does not know this operator")
    up = with_fleet.up("--launcher", "fleet")
    assert up.returncode == 5
    assert "the runtime does not know this operator" in up.stderr
    assert read_records() == []


def test_a_process_has_no_replicas(echo) -> None:
    with Client(f"http://{echo.rest}") as client:
        assert client.replicas() is None
    with Client(echo.grpc) as client, pytest.raises(UsageError, match="over REST only"):
        client.replicas()


@pytest.mark.anyio
async def test_the_asynchronous_client_asks_too(echo, anyio_backend_name: str) -> None:
    if anyio_backend_name == "asyncio":
        async with AsyncClient(f"http://{echo.rest}") as client:
            assert await client.replicas() is None


@pytest.fixture
def serving(export: Callable[..., Path]) -> Serving:
    return Serving((ServedModel("echo", "m", export(), expected=(1,)),))


@pytest.mark.parametrize("launcher", [AUTO, EMBEDDED, NATIVE, DOCKER])
def test_options_of_a_cluster_need_a_launcher_that_has_replicas(
    serving: Serving, launcher: str
) -> None:
    clustered = replace(serving, cluster=ClusterOptions(hedge="p99"))
    with pytest.raises(UsageError, match="--hedge is for a server of several replicas") as caught:
        launcher_for([plugins.backend("echo")], clustered, launcher)
    assert "--launcher ray" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"settings": ServerSettings(grpc_socket=Path("/s"))}, "does not take --grpc-socket"),
        ({"settings": ServerSettings(model_control=ModelControl.ON)}, "not take --model-control"),
        ({"settings": ServerSettings(shadow="2")}, "does not take --shadow"),
        ({"settings": ServerSettings(split="v2=5%")}, "does not take --split"),
        ({"config": ConfigEntry(Path("/m.toml"), "line")}, r"does not serve \[servers.line\]"),
    ],
)
def test_what_replicas_cannot_do_is_refused_before_the_start(
    serving: Serving, changed: dict[str, object], error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        launcher_for([plugins.backend("echo")], replace(serving, **changed), "ray")


@pytest.mark.parametrize(
    ("launcher", "given", "said"),
    [
        (DOCKER, {"shadow": "2"}, "the docker launcher does not take --shadow VERSION"),
        (DOCKER, {"split": "v2=5%"}, "the docker launcher does not take --split"),
        (NATIVE, {"shadow": "http://there:1"}, "the native launcher does not take --shadow"),
        (NATIVE, {"split": "v2=5%"}, "the native launcher does not take --split"),
    ],
)
def test_where_there_is_no_second_version_that_is_said(
    serving: Serving, launcher: str, given: dict[str, str], said: str
) -> None:
    changed = replace(
        serving, settings=ServerSettings(shadow=given.get("shadow"), split=given.get("split"))
    )
    with pytest.raises(UsageError, match=said) as refused:
        launcher_for([plugins.backend("echo")], changed, launcher)
    assert refused.value.hint


def test_a_ladder_is_not_for_replicas(serving: Serving) -> None:
    model = replace(serving.only, options=LoadOptions(ladder="echo/m@1"))
    with pytest.raises(UsageError, match="the ray launcher does not take --ladder"):
        launcher_named("ray").require(replace(serving, models=(model,)))


def test_the_front_of_replicas_gets_the_flags_of_a_server_and_of_the_cluster(
    serving: Serving,
) -> None:
    clustered = replace(serving, cluster=ClusterOptions(replicas="1..4", hedge="p99"))
    argv = launcher_named("ray").command(clustered, Listen("127.0.0.1", 1, 2)).argv
    assert argv == (
        *(sys.executable, "-P", "-m", "mlserve_ray", "--backend", "echo", "--model=m"),
        *("--base-path", str(serving.only.base_path), "--host", "127.0.0.1"),
        *("--grpc-port", "1", "--rest-port", "2"),
        *("--replicas=1..4", "--hedge=p99", "--name", "echo-m"),
    )
