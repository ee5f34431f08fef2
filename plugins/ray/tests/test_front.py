"""A front with a Ray of its own: what it leaves behind, and what keeps it from starting."""

from __future__ import annotations

import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from mlserve.errors import ExitCode
from mlserve.testing.processes import wait_until
from tests.harness.echo import EchoModel, manifest
from tests.harness.ray_cluster import SLOW, FrontProcess, descendants, front, running

pytestmark = pytest.mark.server
TOKEN = "a-secret-of-the-test"


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    made = EchoModel(tmp_path / "m")
    made.put(1, manifest=manifest(), label="one", delay=1.0)
    return made


def test_it_drains_and_leaves_nothing_behind(model: EchoModel, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    options = ("--replicas=2", "--cpus-per-replica=0.5", f"--token-file={token}")
    with front(model, tmp_path / "log", *options) as server:
        wait_until(lambda: "ready: 2 replicas" in server.log(), SLOW)
        everything = descendants(server.process.pid)
        [folder] = Path("/tmp").glob(f"mlsr-{server.process.pid}-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert _status_of_ray(everything) == grpc.StatusCode.UNAUTHENTICATED
        headers = {"Authorization": f"Bearer {TOKEN}"}
        base = f"http://{server.rest}"
        assert httpx.get(f"{base}/mlserve/replicas", timeout=20).status_code == 401
        assert httpx.get(f"{base}/mlserve/replicas", headers=headers, timeout=20).is_success
        [driver] = _running_module(everything, "mlserve_ray.driver_process")
        driver.kill()  # replicas do not need it
        wait_until(lambda: "the connection to Ray is back" in server.log(), SLOW)
        assert len(_running_module(everything, "mlserve.server")) == 2
        assert "stopping:" not in server.log()
        with ThreadPoolExecutor() as threads:
            url = f"{base}/v1/models/m:predict"
            asked = threads.submit(
                httpx.post, url, json={"inputs": ["x"]}, headers=headers, timeout=30
            )
            wait_until(lambda: _in_flight(base, headers) == 1)
            assert server.stop() == ExitCode.OK
            assert asked.result().json() == {"outputs": ["one"]}
        wait_until(lambda: not running(everything))
        assert TOKEN not in server.log()


def _running_module(processes: Sequence[psutil.Process], module: str) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if module in process.cmdline():
                found.append(process)
    return found


def _status_of_ray(processes: Sequence[psutil.Process]) -> grpc.StatusCode:
    """Return what the head of the cluster answers to a stranger."""
    [head] = [each.cmdline() for each in processes if "gcs_server" in each.cmdline()[0]]
    [port] = [flag.partition("=")[2] for flag in head if flag.startswith("--gcs_server_port=")]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        try:
            ask(b"", timeout=20)
        except grpc.RpcError as error:
            status: grpc.StatusCode = error.code()
            return status
    return grpc.StatusCode.OK


def _in_flight(base: str, headers: dict[str, str]) -> int:
    page = httpx.get(f"{base}/metrics", headers=headers, timeout=20).text
    rows = [row for row in page.splitlines() if row.startswith("mlserve_requests_running{")]
    return sum(int(float(row.rpartition(" ")[2])) for row in rows)


def test_an_interrupt_during_the_start(model: EchoModel, tmp_path: Path) -> None:
    with front(model, tmp_path / "log") as server:
        wait_until(lambda: "starting a local Ray" in server.log())
        wait_until(lambda: any("gcs_server" in line for line in running(_all(server.process.pid))))
        everything = _all(server.process.pid)
        assert server.stop(signal.SIGINT) == ExitCode.OK
        wait_until(lambda: not running(everything))


_all = descendants


def test_an_address_where_nothing_is(model: EchoModel, tmp_path: Path) -> None:
    with socket.socket() as nothing:
        nothing.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nothing.getsockname()[1]}"
        with front(model, tmp_path / "log", f"--address={address}") as server:
            assert server.process.wait(SLOW) == ExitCode.UNAVAILABLE
            assert f"no Ray cluster answers at {address}" in server.log()


WRONG = {
    "--address=nowhere": "'nowhere' is not the address of a Ray cluster",
    "--model-control=on": "the ray launcher does not take --model-control",
    "--replicas=0": "'0' is not a valid value of --replicas",
    "--version=7": "has no version 7",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FrontProcess]]:
    """A front for each wrong flag. All start at the same time, as each imports Ray for seconds."""
    folder = tmp_path_factory.mktemp("wrong")
    model = EchoModel(folder / "m")
    model.put(1, manifest=manifest())
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("MLSERVE_HOME", str(folder / "home"))
        yield {
            flag: stack.enter_context(front(model, folder / f"log{number}", flag))
            for number, flag in enumerate(WRONG)
        }


@pytest.mark.parametrize("flag", WRONG)
def test_what_is_wrong_is_said(refused: dict[str, FrontProcess], flag: str) -> None:
    assert refused[flag].process.wait(SLOW) == ExitCode.USAGE
    assert WRONG[flag] in refused[flag].log()


def test_a_port_that_is_taken(model: EchoModel, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with front(model, tmp_path / "log", f"--rest-port={port}") as server:
            assert server.process.wait(SLOW) == ExitCode.USAGE
            assert f"port {port}" in server.log()
