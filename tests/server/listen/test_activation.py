"""A server with sockets that were passed to it, restarted under load; what it tells meanwhile."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.testing.processes import stopping, wait_until
from tests.harness.activation import ServiceManager, service_manager
from tests.harness.echo import PHOTO, EchoModel
from tests.harness.ports import free_ports

pytestmark = pytest.mark.server


ARGV = (sys.executable, "-m", "mlserve.server", "--grpc-port", "0", "--rest-port", "0")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with service_manager(tmp_path) as made:
        yield made


@pytest.fixture
def argv(tmp_path: Path) -> tuple[str, ...]:
    """The server of version 1 of a model that takes half a second to load."""
    model = EchoModel(tmp_path / "m")
    model.put(1, load_delay=0.5)
    served = ("--backend", "echo", "--model", "m", "--base-path", str(model.base_path))
    return (*ARGV, *served, "--poll-seconds", "0")


Asking = Generator[int, None, None]
ASK = b'{"inputs": ["x"]}'


def _over_kept_connections(rest: str) -> Asking:
    """Ask over REST, with a client that goes on with its connection unless it is told not to."""
    with closing(http.client.HTTPConnection(rest, timeout=30)) as connection:
        while True:
            yield _status(connection)


def _over_new_connections(rest: str) -> Asking:
    while True:
        with closing(http.client.HTTPConnection(rest, timeout=30)) as connection:
            yield _status(connection)


def _status(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/v1/models/m:predict", ASK)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _over_grpc(address: str) -> Asking:
    """Ask with gRPC's own library.

    It sends again only what was never sent: a call that begins on a connection just as that is told
    to take no more.
    """
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        while True:
            ask(b"\n\x01m", timeout=30)
            yield 200


def _over_our_client(address: str) -> Asking:
    with Client(address, model="m", retries=ONCE, throttle=False) as client:
        while True:
            assert client.predict(PHOTO, timeout=30).label == "sorrel"
            yield 200


def test_a_restart_under_load_loses_nothing(
    manager: ServiceManager, argv: tuple[str, ...], tmp_path: Path
) -> None:
    rest, grpc_address = manager.address("rest"), manager.address("grpc")
    asked = [_over_kept_connections(rest), _over_new_connections(rest)]
    asked += [_over_grpc(grpc_address), _over_our_client(grpc_address)]
    counts, may_end = [0] * len(asked), threading.Event()

    def ask(index: int) -> None:
        with closing(asked[index]) as answers:
            for status in answers:
                assert status == 200
                counts[index] += 1
                if may_end.is_set():
                    return

    def all_get_answers() -> None:
        before = list(counts)
        wait_until(
            lambda: (
                all(now > was + 5 for now, was in zip(counts, before, strict=True))
                or any(each.done() for each in asking)
            )
        )

    with ThreadPoolExecutor(len(asked)) as threads:
        asking = [threads.submit(ask, index) for index in range(len(asked))]
        try:
            for number in range(3):
                log = tmp_path / f"log{number}"
                with manager.start(log, *argv) as process:
                    manager.wait_told("READY=1")
                    all_get_answers()
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(60) == 0, log.read_text()
                    assert "STOPPING=1" in manager.told()
            with manager.start(log, *argv):
                all_get_answers()
                may_end.set()
                for each in asking:
                    each.result(30)
        finally:
            may_end.set()


def test_what_waits_while_the_model_loads_is_answered_and_not_refused(
    manager: ServiceManager, argv: tuple[str, ...], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(next, _over_new_connections(manager.address("rest")))
        with manager.start(tmp_path / "log", *argv, env={"WATCHDOG_USEC": "200000"}):
            assert answer.result(30) == 200
            ready = [line for line in manager.told() if line != "WATCHDOG=1"]
            assert ready[0] == "READY=1"
            assert ready[1].startswith(f"STATUS=serving m at grpc {manager.address('grpc')}, rest")
            manager.forget()
            manager.wait_told("WATCHDOG=1")


def test_one_that_ends_before_it_is_ready_leaves_what_waits_to_the_next(
    manager: ServiceManager, argv: tuple[str, ...], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(next, _over_new_connections(manager.address("rest")))
        with manager.start(log, *argv) as process:
            wait_until(lambda: "listening" in log.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        assert "READY=1" not in manager.told()
        with manager.start(log, *argv):
            assert answer.result(30) == 200


def test_a_reload_is_told_until_it_is_in_force(manager: ServiceManager, tmp_path: Path) -> None:
    for name in ("m", "n"):
        EchoModel(tmp_path / name).put(1)
    file = tmp_path / "mlserve.toml"
    text = '[servers.s]\nhost = "0.0.0.0"\ngrpc_port = 1\n'
    model = '[servers.s.models.{name}]\nbackend = "echo"\npath = "{name}"\n'
    file.write_text(text + model.format(name="m"))
    of_file = ("--config", str(file), "--server", "s", "--poll-seconds", "60")
    with manager.start(tmp_path / "log", *ARGV, *of_file) as process:
        manager.wait_told("READY=1")
        manager.forget()
        file.write_text(text + model.format(name="m") + model.format(name="n"))
        process.send_signal(signal.SIGHUP)
        manager.wait_told("READY=1")
        told = manager.told()
        assert told.index("RELOADING=1") < told.index("READY=1")
        assert any(line.startswith("STATUS=serving m, n at grpc") for line in told)


def test_sockets_of_another_kind_are_refused(tmp_path: Path, argv: tuple[str, ...]) -> None:
    with service_manager(tmp_path) as manager:
        manager.sockets = [("http", manager.sockets[0][1]), manager.sockets[1]]
        with manager.start(tmp_path / "log", *argv) as process:
            assert process.wait(60) == 2
    told = (tmp_path / "log").read_text()
    assert "is named 'http', and should be named grpc or rest" in told
    assert "hint: the socket units need FileDescriptorName=grpc" in told


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="needs Debian's package systemd"
)
def test_systemd_passes_a_port_and_a_unix_socket(tmp_path: Path, argv: tuple[str, ...]) -> None:
    rest, log = tmp_path / "rest.sock", tmp_path / "log"
    [port] = free_ports(1)
    activate = ("systemd-socket-activate", "--fdname=grpc:rest", f"--listen=127.0.0.1:{port}")
    kept = [f"--setenv={name}" for name in ("PATH", "HOME", "MLSERVE_HOME")]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*activate, f"--listen={rest}", *kept, *argv], stderr=output, stdout=output
        ) as process,
        stopping(process),
    ):
        wait_until(rest.exists)
        with Client(f"http+unix:{rest}", model="m") as client:
            assert client.predict(PHOTO, timeout=30).label == "sorrel"
        with Client(f"127.0.0.1:{port}", model="m") as client:
            assert client.predict(PHOTO, timeout=30).label == "sorrel"
    assert process.returncode == 0, log.read_text()
    assert f"listening grpc=127.0.0.1:{port} rest=unix:{rest}" in log.read_text()
    assert rest.exists(), "it is not the server's"
