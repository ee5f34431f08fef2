"""Nothing holds `predict` longer than its deadline: not the server, not the network, not a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import MLSERVE
from tests.harness.faulty import HTTP2_SETTINGS, Line, Peer

pytestmark = [pytest.mark.server, pytest.mark.alone]

TIMEOUT = 1.0
LATENESS = 0.25
TRIES = 4
"""How often a time is taken until it is short enough: this machine may be busy with something else,
and what is late by itself is late each time."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The `host:port` of a bound port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def _http_drip_headers(line: Line) -> None:
    line.await_bytes()
    line.drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")


def _http_drip_body(line: Line) -> None:
    line.await_bytes()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    line.drip(b'{"outputs": "')


def _http_stall_after_headers(line: Line) -> None:
    line.await_bytes()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    line.stall()


def _grpc_stall_after_settings(line: Line) -> None:
    line.send(HTTP2_SETTINGS)
    line.stall()


def _grpc_drip_settings(line: Line) -> None:
    line.drip(HTTP2_SETTINGS)


STALLS: dict[str, tuple[str, Peer, str]] = {
    "http says nothing": ("http://", Line.stall, "waiting for the answer of"),
    "http stalls after the headers": ("http://", _http_stall_after_headers, "receiving the answer"),
    "http drips the headers": ("http://", _http_drip_headers, "waiting for the answer of"),
    "http drips the body": ("http://", _http_drip_body, "receiving the answer of"),
    "grpc says nothing": ("", Line.stall, "connecting to"),
    "grpc stalls after its settings": ("", _grpc_stall_after_settings, "waiting for the answer of"),
}


@pytest.fixture(params=STALLS)
def stalling(request: pytest.FixtureRequest, faulty: Callable[[Peer], str]) -> tuple[str, str]:
    """The endpoint of a server that never answers, and what the client is doing meanwhile."""
    scheme, peer, doing = STALLS[request.param]
    return scheme + faulty(peer), doing


@pytest.fixture
def grpc_dripping(faulty: Callable[[Peer], str]) -> str:
    """A server that drips the frame which opens HTTP/2, then bytes without meaning."""
    return faulty(_grpc_drip_settings)


@pytest.fixture
def timed(cli: Any) -> Callable[..., Any]:
    """The outcome of a command that must end within its deadline and 0.25 s."""

    def run(*arguments: object, timeout: float = TIMEOUT, **options: Any) -> Any:
        for _ in range(TRIES):
            outcome = cli.timed(*arguments, "--timeout", timeout, **options)
            if outcome.seconds <= timeout + LATENESS:
                break
        assert outcome.seconds <= timeout + LATENESS
        return outcome

    return run


def test_a_server_that_stalls(timed: Any, stalling: tuple[str, str], photo: Path) -> None:
    endpoint, doing = stalling
    outcome = timed("predict", photo, "--endpoint", endpoint)

    assert (outcome.returncode, outcome.stdout) == (124, "")
    error, hint = outcome.stderr.splitlines()
    assert error.startswith(f"error: no answer within 1 s (the deadline passed while {doing}")
    assert endpoint in error
    assert hint.startswith("hint: give the call more time with --timeout")


def test_metadata_and_status_have_the_same_deadline(timed: Any, faulty: Any) -> None:
    endpoint = f"http://{faulty(lambda line: line.stall())}"
    for command in ("metadata", "status"):
        assert timed(command, "--endpoint", endpoint).returncode == 124


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_the_other_api_has_the_same_deadline(
    timed: Any, faulty: Any, photo: Path, scheme: str
) -> None:
    endpoint = scheme + faulty(lambda line: line.stall())
    outcome = timed("predict", photo, "--endpoint", endpoint, "--api", "oip")

    assert outcome.returncode == 124
    assert endpoint in outcome.stderr


def test_finding_out_the_api_has_no_time_of_its_own(timed: Any, faulty: Any, photo: Path) -> None:
    """The server does not know the first API, and says nothing to the question in the other one."""
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    endpoint = faulty(lambda line: (line.await_bytes(), line.send(gone), line.stall()))
    outcome = timed("predict", photo, "--endpoint", f"http://{endpoint}")

    assert outcome.returncode == 124
    assert "the deadline passed while waiting for the answer of" in outcome.stderr


def test_a_grpc_server_that_drips(timed: Any, grpc_dripping: str, photo: Path) -> None:
    """The bytes after the dripped settings may be refused as garbage before the deadline."""
    outcome = timed("predict", photo, "--endpoint", grpc_dripping)

    assert outcome.returncode in (5, 124)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_model_that_is_slow(timed: Any, start_echo: Any, photo: Path, protocol: str) -> None:
    endpoint = start_echo(delay=3).endpoint(protocol)
    outcome = timed("predict", photo, "--endpoint", endpoint, "--output", "json")

    assert outcome.returncode == 124
    assert '"kind": "deadline_exceeded"' in outcome.stderr


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_port_that_refuses(timed: Any, refusing: str, photo: Path, scheme: str) -> None:
    outcome = timed("predict", photo, "--endpoint", scheme + refusing, timeout=5)

    assert (outcome.returncode, outcome.stdout) == (5, "")
    assert outcome.stderr.startswith(f"error: no server answers at {scheme}{refusing} (")
    assert "mlserve up" in outcome.stderr


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_host_that_is_not_known(timed: Any, photo: Path, scheme: str) -> None:
    """A resolver may also take its time: then the deadline ends the command."""
    outcome = timed("predict", photo, "--endpoint", f"{scheme}no-such-host.invalid:8500", timeout=5)

    assert outcome.returncode in (2, 5, 124)
    assert "no-such-host.invalid" in outcome.stderr


def test_a_pipe_that_nobody_writes(timed: Any, refusing: str, tmp_path: Path) -> None:
    pipe = tmp_path / "photo.jpg"
    os.mkfifo(pipe)
    outcome = timed("predict", pipe, "--endpoint", refusing)

    assert outcome.returncode == 124
    assert f"the deadline passed while reading {pipe}" in outcome.stderr


def test_standard_input_that_never_ends(timed: Any, refusing: str) -> None:
    read, write = os.pipe()
    try:
        outcome = timed("predict", "-", "--endpoint", refusing, stdin=read)
    finally:
        os.close(read)
        os.close(write)

    assert outcome.returncode == 124
    assert "the deadline passed while reading standard input" in outcome.stderr


def test_each_of_many_files_has_the_whole_time(cli: Any, start_echo: Any, photo: Path) -> None:
    """Three answers of 1 s each do not fit into one deadline of 2.5 s; each fits into its own."""
    endpoint = start_echo(delay=1).grpc
    outcome = cli("predict", photo, photo, photo, "--endpoint", endpoint, "--timeout", 2.5)

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == f"{photo}\tsorrel\n" * 3


def test_a_deadline_that_is_too_short_for_the_start(cli: Any, echo: Any, photo: Path) -> None:
    outcome = cli("predict", photo, "--endpoint", echo.grpc, "--timeout", 0.001)

    assert outcome.returncode == 124
    assert "no answer within 1 ms" in outcome.stderr


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none(cli: Any, photo: Path, timeout: str) -> None:
    outcome = cli("predict", photo, "--endpoint", "127.0.0.1:1", "--timeout", timeout)

    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: timeout must be a positive number of seconds, not ")


def test_ctrl_c_ends_with_130(faulty: Any, photo: Path) -> None:
    endpoint = faulty(lambda line: (line.await_bytes(), process.send_signal(signal.SIGINT)))
    options = ["--endpoint", f"http://{endpoint}", "--timeout", "60"]
    process = subprocess.Popen(
        [*MLSERVE, "predict", str(photo), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
