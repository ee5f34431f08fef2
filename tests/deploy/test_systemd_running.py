"""The units of `mlserve deploy systemd`, run by a real systemd: ready, restarted under load."""

from __future__ import annotations

import http.client
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

import mlserve
from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.testing.processes import wait_until
from tests.harness.command import Command
from tests.harness.echo import PHOTO
from tests.harness.ports import free_ports
from tests.harness.systemd import Systemd, private_systemd, why_no_systemd

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(bool(why_no_systemd()), reason=why_no_systemd() or "it can"),
]
TREE = Path(mlserve.__file__).parents[1]
UNIT = "mlserve-m"
TOKEN = "0123456789abcdef0123456789abcdef"
DROP_IN = f"""\
[Service]
BindReadOnlyPaths={TREE}
Environment=PYTHONPATH={TREE}/tests/echo PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/run/units/log
StandardError=inherit
"""


@pytest.fixture
def ports() -> tuple[int, int]:
    grpc, rest = free_ports(2)
    return grpc, rest


@pytest.fixture
def systemd(tmp_path: Path, export, ports: tuple[int, int]) -> Iterator[Systemd]:
    """A systemd with the units of the model `m`, of which none has been started."""
    export(load_delay=0.5)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    units = tmp_path / "of"
    flags = ("--grpc-port", ports[0], "--rest-port", ports[1], "--token-file", token)
    done = Command(tmp_path)("deploy", "systemd", *flags, "--output-dir", units)
    assert done.returncode == 0, done.stderr
    drop_in = units / f"{UNIT}.service.d" / "test.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(DROP_IN)
    with private_systemd(tmp_path / "systemd", units, TREE, tmp_path / "log") as running:
        yield running


def test_a_restart_under_load_loses_nothing(systemd: Systemd, ports: tuple[int, int]) -> None:
    def over_grpc() -> None:
        address = f"127.0.0.1:{ports[0]}"
        with Client(address, model="m", token=TOKEN, retries=ONCE, throttle=False) as client:
            while not may_end.is_set():
                assert client.predict(PHOTO, timeout=30).label == "sorrel"
                counts[0] += 1

    def over_rest() -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with closing(http.client.HTTPConnection("127.0.0.1", ports[1], timeout=30)) as connection:
            while not may_end.is_set():
                connection.request("POST", "/v1/models/m:predict", b'{"inputs": ["x"]}', headers)
                answer = connection.getresponse()
                assert (answer.status, bool(answer.read())) == (200, True)
                counts[1] += 1

    counts, may_end = [0, 0], threading.Event()
    # The sockets alone: the first connection starts the service, and waits until it is ready.
    systemd.ctl("start", f"{UNIT}-grpc.socket", f"{UNIT}-rest.socket")
    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(over_grpc), threads.submit(over_rest)]

        def answers_come() -> None:
            before = list(counts)
            wait_until(
                lambda: all(n > b + 3 for n, b in zip(counts, before, strict=True)) or ended()
            )

        def ended() -> bool:
            return any(each.done() for each in asking)

        try:
            answers_come()
            systemd.ctl("restart", f"{UNIT}.service")
            answers_come()
        finally:
            may_end.set()
        for each in asking:
            each.result(30)
    assert systemd.property(UNIT, "NRestarts") == "0"
    assert systemd.property(UNIT, "StatusText").startswith("serving m at grpc 127.0.0.1:")
    main = int(systemd.property(UNIT, "MainPID"))
    inside = [each for each in psutil.process_iter() if _is_inside(each, main)]
    assert inside
    assert all(each.uids().real > 60000 for each in inside)

    for each in inside:
        each.send_signal(signal.SIGKILL)
    with Client(f"127.0.0.1:{ports[0]}", model="m", token=TOKEN) as client:
        assert client.predict(PHOTO, timeout=30).label == "sorrel"
    wait_until(lambda: systemd.property(UNIT, "ActiveState") == "active")
    assert systemd.property(UNIT, "NRestarts") == "1"
    systemd.ctl("stop", f"{UNIT}.service", f"{UNIT}-grpc.socket", f"{UNIT}-rest.socket")
    assert systemd.property(UNIT, "Result") == "success"


def _is_inside(process: psutil.Process, main: int) -> bool:
    """Return whether it is the unit's main process, or a child, by its number inside."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    numbers = next(line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:"))
    is_main = len(numbers) > 1 and int(numbers[-1]) == main
    parent = process.parent()
    return is_main or (parent is not None and len(numbers) > 1 and _is_inside(parent, main))
