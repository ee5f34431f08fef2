"""A client that was used before a fork: every process has connections of its own, and goes on."""

from __future__ import annotations

import asyncio
import re
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.settings import SettingCodes

from mlserve import Client
from mlserve.client import AsyncClient, Tls, forks
from mlserve.client.adapter import Call
from mlserve.client.call import CallIds, Trace
from mlserve.client.endpoint import Connection
from mlserve.client.http2 import Http2Transport
from mlserve.client.retries import ONCE, CallState
from mlserve.deadline import Deadline
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    MlserveError,
    NotFound,
    Unavailable,
)

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
_SCRIPT = Path(__file__).with_name("forking.py")


def _run(how: str, endpoint: str) -> str:
    """What the script prints, without the library's word that it has seen a fork."""
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), how, endpoint],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "fork_posix.cc" not in line]
    assert not said, done.stderr
    return done.stdout


@PROTOCOLS
@pytest.mark.parametrize("how", ["at_once", "under_load", "in_a_pool", "before_workers"])
def test_every_process_gets_its_own_answers(echo: Any, protocol: str, how: str) -> None:
    codes = re.findall(r"-?\d+", _run(how, echo.endpoint(protocol)))

    assert codes
    assert set(codes) == {"0"}


@PROTOCOLS
def test_an_async_client_works_in_a_forked_process_and_in_a_second_loop(
    echo: Any, protocol: str
) -> None:
    assert _run("of_async", echo.endpoint(protocol)) == "[0, 0]\n" * 2


@contextmanager
def _proxy(target: str, answer: str) -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that gives this answer, and a tunnel to `target`; and what it was asked."""
    asked: list[str] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65536).decode())
            self.request.sendall(f"{answer}\r\n\r\n".encode())
            if " 200 " not in answer:
                return
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                back = threading.Thread(target=pump, args=(server, self.request))
                back.start()
                pump(self.request, server)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        threading.Thread(target=proxy.serve_forever).start()
        yield "{}:{}".format(*proxy.server_address), asked
        proxy.shutdown()


class Widening(socketserver.BaseRequestHandler):
    """A gRPC server that answers any call with its message's size.

    It opens the window of a call by its SETTINGS alone, once the call has filled the first.
    """

    def handle(self) -> None:
        conn, size = H2Connection(H2Configuration(client_side=False)), 0
        conn.initiate_connection()
        conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
        while True:
            self.request.sendall(conn.data_to_send())
            if not (data := self.request.recv(65536)):
                return
            for event in conn.receive_data(data):
                if isinstance(event, DataReceived):
                    is_first, size = not size, size + len(event.data)
                    if is_first:
                        conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 60_000})
                if isinstance(event, StreamEnded):
                    said = str(size).encode()
                    conn.send_headers(event.stream_id, [(":status", "200")])
                    conn.send_data(event.stream_id, struct.pack(">BI", 0, len(said)) + said)
                    conn.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)


def begun(timeout: float) -> CallState:
    """A call that has so many seconds."""
    return CallState(Deadline.after(timeout), CallIds(Trace.following(None)), ONCE)


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process counts as forked from one that had used grpc."""
    monkeypatch.setattr(forks, "_has_inherited_grpc", True)


@pytest.mark.usefixtures("_forked")
class TestGrpcWithoutItsLibrary:
    """What a forked process speaks; the errors are those of the library's transport."""

    def test_it_is_what_a_client_takes(self, echo: Any) -> None:
        with Client(echo.grpc) as client:
            assert client.predict(b"fine", timeout=20).label == "sorrel"
            (transport,) = client._client._connections._transports.values()
        assert isinstance(transport, Http2Transport)

    def test_it_runs_on_uvloop(self, echo: Any) -> None:
        uvloop = pytest.importorskip("uvloop")

        async def ask() -> str:
            async with AsyncClient(echo.grpc) as client:
                return (await client.predict(b"fine", timeout=20)).label

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(ask()) == "sorrel"

    @pytest.mark.parametrize("size", [0, 16_000, 70_000, 3_000_000])
    def test_messages_of_any_size_go_both_ways(self, echo: Any, size: int) -> None:
        with Client(echo.grpc, api="oip") as client:
            assert client.predict(b"fine" + bytes(size), timeout=20).scores
            assert client.metadata(timeout=20).signatures

    def test_a_window_may_be_opened_by_settings(self) -> None:
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Widening) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            transport = Http2Transport(Connection.to("{}:{}".format(*server.server_address)))

            async def ask() -> bytes:
                async with asyncio.timeout(20):
                    reply = await transport.send(Call("/a.B/C", bytes(20_000)), begun(20))
                await transport.close()
                return reply.body

            try:
                assert asyncio.run(ask()) == b"20005"
            finally:
                server.shutdown()

    def test_a_deadline_that_passes_before_the_call_is_sent_leaves_no_connection(
        self, echo: Any
    ) -> None:
        async def ask_twice() -> bool:
            transport = Http2Transport(Connection.to(echo.grpc))
            call = Call("/grpc.health.v1.Health/Check", b"")
            await transport.send(call, begun(20))
            (connection,) = transport._idle
            late = begun(1e-9)
            with pytest.raises(DeadlineExceeded):
                await transport.send(call, late)
            return connection.is_usable

        assert not asyncio.run(ask_twice())

    def test_refusals_have_their_kind(self, echo: Any) -> None:
        with Client(echo.grpc) as client:
            with pytest.raises(InvalidInput):
                client.predict(b"bad", timeout=20)
            assert client.predict(b"fine", timeout=20).label == "sorrel"
        with Client(echo.grpc, model="nobody") as client, pytest.raises(NotFound, match="nobody"):
            client.predict(b"fine", timeout=20)

    def test_an_answer_that_is_too_large_is_not_read(self, echo: Any) -> None:
        with (
            Client(echo.grpc, max_answer_bytes=20) as client,
            pytest.raises(InferenceFailed, match="more than the 20 bytes"),
        ):
            client.predict(b"fine", timeout=20)

    def test_nobody_there(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            endpoint = "{}:{}".format(*bound.getsockname())
            with Client(endpoint) as client, pytest.raises(Unavailable, match="no server answers"):
                client.predict(b"fine", timeout=20)

    def test_the_server_dies_under_a_call_and_comes_no_more(self, start_echo: Any) -> None:
        server = start_echo()
        with Client(server.grpc) as client:
            assert client.predict(b"fine", timeout=20).label == "sorrel"
            server.process.kill()
            server.process.wait()
            with pytest.raises(Unavailable, match="no server answers"):
                client.predict(b"fine", timeout=20)

    @pytest.mark.alone
    def test_the_deadline_is_told_to_the_server_and_kept(self, start_echo: Any) -> None:
        server = start_echo(delay=2)
        with Client(server.grpc) as client, pytest.raises(DeadlineExceeded):
            client.predict(b"fine", timeout=0.5)

    def test_it_goes_through_the_proxy(self, echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        with _proxy(echo.grpc, "HTTP/1.1 200 Connected") as (address, asked):
            monkeypatch.setenv("http_proxy", f"http://me:secret@{address}")
            with Client("server.test:8500") as client:
                assert client.predict(b"fine", timeout=20).label == "sorrel"
        assert asked[0].startswith("CONNECT server.test:8500 HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in asked[0]

    def test_a_proxy_that_refuses_is_named(
        self, echo: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with _proxy(echo.grpc, "HTTP/1.1 403 Forbidden") as (address, _):
            monkeypatch.setenv("http_proxy", f"http://{address}")
            with Client("server.test:8500") as client, pytest.raises(MlserveError) as caught:
                client.predict(b"fine", timeout=20)
        assert address in caught.value.message
        assert "403" in caught.value.message

    def test_tls_with_a_token_and_a_certificate(self, start_echo: Any, tmp_path: Path) -> None:
        import trustme

        authority, token = trustme.CA(), tmp_path / "token"
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        for name in ("127.0.0.1", "client"):
            issued = authority.issue_cert(name)
            issued.private_key_pem.write_to_path(str(tmp_path / f"{name}_key.pem"))
            issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        token.write_text("s3cret")
        server = start_echo(
            f"--token-file={token}",
            f"--tls-cert={tmp_path / '127.0.0.1.pem'}",
            f"--tls-key={tmp_path / '127.0.0.1_key.pem'}",
            f"--tls-client-ca={tmp_path / 'ca.pem'}",
        )
        tls = Tls(
            ca=tmp_path / "ca.pem", cert=tmp_path / "client.pem", key=tmp_path / "client_key.pem"
        )
        with Client(f"grpcs://{server.grpc}", token="s3cret", tls=tls) as client:
            assert client.predict(b"fine", timeout=20).label == "sorrel"
