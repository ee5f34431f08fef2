"""Sockets that are passed to a process: where they listen, and which are refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mlserve.activation import FOR_SERVER, GRPC, REST, PassedSockets, take_sockets
from mlserve.errors import UsageError


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def _listening(stack: ExitStack, host: str) -> int:
    return stack.enter_context(socket.create_server((host, 0))).fileno()


def test_a_server_is_as_exposed_as_the_most_open_of_its_sockets(stack: ExitStack) -> None:
    closed, open_ = _listening(stack, "127.0.0.1"), _listening(stack, "0.0.0.0")
    assert PassedSockets((closed,), (closed,)).host("0.0.0.0") == "127.0.0.1"
    assert PassedSockets((closed,), (open_,)).host("127.0.0.1") == "0.0.0.0"
    assert PassedSockets((closed,), ()).host("192.0.2.1") == "192.0.2.1"
    assert PassedSockets().host("192.0.2.1") == "192.0.2.1"


def test_sockets_are_taken_once_and_not_inherited(stack: ExitStack) -> None:
    one, two = (_listening(stack, "127.0.0.1") for _ in range(2))
    environ = {FOR_SERVER: PassedSockets((one,), (two,)).in_words(), "LISTEN_PID": "1"}
    os.set_inheritable(one, True)

    passed = take_sockets(environ)

    assert (passed.grpc, passed.rest, environ) == ((one,), (two,), {})
    assert not os.get_inheritable(one)
    host, port = passed.address(GRPC) or ("", 0)
    assert (host, port > 0, passed.address(REST) == (host, port)) == ("127.0.0.1", True, False)


def test_sockets_of_another_process_are_left_alone() -> None:
    assert not take_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"})
    assert not take_sockets({})


@pytest.mark.parametrize(
    ("count", "names", "told"),
    [
        ("x", "grpc", "LISTEN_FDS is 'x'"),
        ("2", "grpc", "passes 2 sockets and LISTEN_FDNAMES ('grpc') names 1"),
        ("1", "unknown", "is named 'unknown', and should be named grpc or rest"),
    ],
)
def test_what_is_not_said_right_is_refused(count: str, names: str, told: str) -> None:
    given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    with pytest.raises(UsageError, match=told.replace("(", r"\(").replace(")", r"\)")) as refused:
        take_sockets(given)
    assert "mlserve deploy systemd" in (refused.value.hint or "")


@pytest.mark.parametrize("text", ["grpc", "grpc:x", "grpc:3:4", "grpc:3,"])
def test_a_variable_of_another_meaning_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="should be like grpc:3,rest:4"):
        take_sockets({FOR_SERVER: text})


def test_what_does_not_listen_is_refused(stack: ExitStack) -> None:
    one, _ = socket.socketpair()
    with one, _:
        given = {FOR_SERVER: f"grpc:{one.fileno()}"}
        with pytest.raises(UsageError, match="does not listen for connections"):
            take_sockets(given)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(UsageError, match="does not listen for connections"):
            take_sockets({FOR_SERVER: f"grpc:{datagrams.fileno()}"})
        closed = datagrams.fileno()
    with pytest.raises(UsageError, match="passed as a socket, is none"):
        take_sockets({FOR_SERVER: f"grpc:{closed}"})
    read, write = os.pipe()
    try:
        with pytest.raises(UsageError, match="passed as a socket, is none"):
            take_sockets({FOR_SERVER: f"rest:{read}"})
    finally:
        os.close(read)
        os.close(write)
