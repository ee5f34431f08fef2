"""Replicas on two nodes behind one address, and what happens as parts of it die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from mlserve.client import Client
from mlserve.errors import ExitCode
from mlserve.pin import write_pin
from mlserve.testing.processes import wait_until
from tests.harness.echo import PHOTO, EchoModel, manifest
from tests.harness.ports import free_ports
from tests.harness.ray_cluster import SLOW, FrontProcess, Load, RayNode, front, session

pytestmark = pytest.mark.server


class Cluster(NamedTuple):
    head: RayNode
    other: RayNode
    model: EchoModel
    front: FrontProcess
    address: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with a replica each. The second one does not see the model's folder."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "store").mkdir()
    model = EchoModel(folder / "store" / "m")
    for version in (1, 2):
        model.put(version, manifest=manifest(), label=f"v{version}", journal="")
    model.put(3, manifest=manifest(), fail_load="no such operator", journal="")
    write_pin(model.base_path, 1)
    port, client_port = free_ports(2)
    short = tmp_path_factory.mktemp("r")
    flags = ["--head", f"--port={port}", f"--ray-client-server-port={client_port}"]
    flags.append("--include-dashboard=false")
    hidden = folder / "store" if os.geteuid() == 0 else Path()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLSERVE_HOME", str(folder / "home"))
        head = RayNode(short / "a", "127.0.0.2", flags, Path())
        try:
            head.wait_started()
            other = RayNode(short / "b", "127.0.0.3", [f"--address=127.0.0.2:{port}"], hidden)
            try:
                other.wait_started()
                address = f"--address=127.0.0.2:{port}"
                options = ("--replicas=2", "--cpus-per-replica=1.5", address)
                with front(model, folder / "front.log", *options) as started:
                    started.wait_ready_replicas(2)
                    yield Cluster(head, other, model, started, address)
            finally:
                other.kill()
        finally:
            head.kill()


def test_both_nodes_answer_on_both_ports(cluster: Cluster) -> None:
    server = cluster.front
    hosts = {replica["address"].partition(":")[0] for replica in server.ready()}
    assert hosts == {"127.0.0.2", "127.0.0.3"}
    assert server.label() == "v1"
    with Client(server.grpc, model="m") as client:
        assert client.predict(PHOTO).label == "v1"
    ids = {replica["id"] for replica in server.ready()}
    for replica in ids:
        assert f"[{replica}] " in server.log()
    metrics = httpx.get(f"http://{server.rest}/metrics", timeout=20).text
    assert all(f'mlserve_ready{{replica="{replica}"}} 1.0' in metrics for replica in ids)
    assert 'mlserve_replicas{state="ready"} 2.0' in metrics


def test_a_server_and_a_replica_that_are_killed_come_back(cluster: Cluster) -> None:
    server = cluster.front
    with Load(server) as load:
        load.wait_more()
        first = server.ready()[0]
        os.kill(first["pid"], signal.SIGKILL)
        wait_until(lambda: first["pid"] not in _pids(server) and len(server.ready()) == 2, SLOW)
        load.wait_more()
        replica = psutil.Process(server.ready()[1]["pid"]).parent()
        assert replica is not None
        gone = server.ready()[1]["id"]
        replica.kill()
        wait_until(lambda: gone not in _ids(server) and len(server.ready()) == 2, SLOW)
        load.wait_more()
    assert set(load.answers) == {"v1"}


def test_the_roster_and_the_controller_are_not_needed_for_requests(cluster: Cluster) -> None:
    server = cluster.front
    before = _ids(server)
    with Load(server) as load:
        for name in ("ray::Roster", "ray::ServeController"):
            [process] = _named(server, cluster, name)
            process.kill()
            load.wait_more()
        wait_until(lambda: len(_named(server, cluster, "ray::Roster")) == 1, SLOW)
        wait_until(lambda: len(_named(server, cluster, "ray::ServeController")) == 1, SLOW)
        load.wait_more()
    assert set(load.answers) == {"v1"}
    assert server.wait_ready_replicas(2)
    assert _ids(server) == before


def test_versions_roll_and_a_bad_one_is_taken_back(cluster: Cluster) -> None:
    server, base = cluster.front, cluster.model.base_path
    with Load(server) as load:
        write_pin(base, 2)
        wait_until(lambda: _rolling(server) == (2, "done"), SLOW)
        load.wait_more()
        write_pin(base, 3)
        wait_until(lambda: _rolling(server) == (3, "refused"), SLOW)
        assert "no such operator" in server.replicas()["rolling"]["reason"]
        load.wait_more()
        write_pin(base, 2)
    assert set(load.answers) == {"v1", "v2"}
    assert server.label() == "v2"


def test_what_keeps_a_server_from_starting(cluster: Cluster, tmp_path: Path) -> None:
    address = cluster.address
    bad = EchoModel(tmp_path / "bad")
    bad.put(1, manifest=manifest(), fail_load="no such operator", journal="")
    options = ("--name=bad", "--cpus-per-replica=0.2")
    # At the same time, as each takes seconds to start.
    with (
        front(cluster.model, tmp_path / "twice.log", address) as twice,
        front(bad, tmp_path / "broken.log", address, *options) as broken,
    ):
        assert twice.process.wait(SLOW) == ExitCode.USAGE
        assert "a server named ray-test runs in that cluster" in twice.log()
        assert broken.process.wait(SLOW) == ExitCode.UNAVAILABLE
        assert "no such operator" in broken.log()
    assert cluster.front.label() == "v2"


def test_a_node_that_dies(cluster: Cluster) -> None:
    server = cluster.front
    with Load(server) as load:
        load.wait_more()
        cluster.other.kill()
        load.wait_more(200)
        wait_until(lambda: len(server.ready()) == 1, SLOW)
        load.wait_more()
    assert set(load.answers) == {"v2"}


def _ids(server: FrontProcess) -> set[str]:
    return {replica["id"] for replica in server.ready()}


def _pids(server: FrontProcess) -> set[int]:
    return {replica["pid"] for replica in server.ready()}


def _rolling(server: FrontProcess) -> tuple[int, str]:
    rolling = server.replicas()["rolling"] or {"version": 0, "state": ""}
    return rolling["version"], rolling["state"]


def _named(server: FrontProcess, cluster: Cluster, name: str) -> list[psutil.Process]:
    """Return the processes of that name: in the front, in its node, or in one of the cluster."""
    ours = psutil.Process(server.process.pid).children(recursive=True)
    everywhere = [*ours, *session(cluster.head.process.pid), *session(cluster.other.process.pid)]
    found = {process.pid: process for process in everywhere if name in " ".join(process.cmdline())}
    return list(found.values())
