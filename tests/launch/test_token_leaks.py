"""A token is where it must be: in no log, argument, environment, record or redirect."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlserve.client import Client
from mlserve.client.endpoint import Connection
from mlserve.errors import MlserveError

TOKEN = "s3cret-of-line-7"
SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.server
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_token_of_a_server_is_in_nothing_that_is_kept_of_it(
    cli, export, home: Path, tmp_path: Path, log_format: str
) -> None:
    token, photo = tmp_path / "token", tmp_path / "photo.jpg"
    token.write_text(TOKEN)
    token.chmod(0o600)
    photo.write_bytes(b"\xff\xd8\xff a photo")
    export()
    cli.env |= {"MLSERVE_TOKEN": TOKEN, "TRACEPARENT": SPAN}
    logged = ("--log-requests", "all", "--log-format", log_format)
    started = cli.up("--token-file", str(token), *logged)
    assert started.returncode == 0, started.stderr
    [server] = cli.ps()
    for endpoint in (server["grpc"], server["rest"]):
        answered = cli("predict", str(photo), "--endpoint", endpoint, "--output", "json")
        refused = cli("predict", str(photo), "--endpoint", endpoint, "--token-file", str(photo))
        assert (answered.returncode, refused.returncode) == (0, 2)
        told = (answered.stdout, answered.stderr, refused.stdout, refused.stderr)
        assert TOKEN not in "".join(told)
    process = psutil.Process(server["pid"])
    assert TOKEN not in " ".join(process.cmdline())
    assert TOKEN not in str(process.environ())
    assert TOKEN not in "".join(cli(*words).stdout for words in (("ps",), ("logs",)))
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert len(kept) > 3
    assert "0af7651916cd43dd8448eb211c80319c" in Path(server["log"]).read_text()
    for path in kept:
        assert TOKEN.encode() not in path.read_bytes(), path


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[bytes]]]:
    """Where a redirect leads, and what was heard there."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed_so_no_token_goes_along(
    elsewhere: tuple[str, list[bytes]], status: str
) -> None:
    target, heard = elsewhere
    answer = f"HTTP/1.1 {status}\r\nLocation: {target}/\r\nContent-Length: 0\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_all() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=answer_all, daemon=True).start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            Client(endpoint, model="m", token=TOKEN) as client,
            pytest.raises(MlserveError) as failed,
        ):
            client.predict(b"x", timeout=5)
    assert heard == []
    assert TOKEN not in failed.value.message


def test_what_is_shown_of_an_access_has_no_token() -> None:
    assert TOKEN not in repr(Connection.to("127.0.0.1:1", token=TOKEN))


def test_the_environment_of_this_process_keeps_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a server is not given is still there for the commands that follow."""
    from mlserve.launch.command import _inherited

    monkeypatch.setenv("MLSERVE_TOKEN", TOKEN)
    assert "MLSERVE_TOKEN" not in _inherited()
    assert os.environ["MLSERVE_TOKEN"] == TOKEN
