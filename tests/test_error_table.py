"""The table of errors, end to end: each situation on both protocols and in both APIs.

A row prepares a real server. `wire` asks it with the messages as they are and looks at the status
code; `cli` asks it with `mlserve predict` and looks at the exit code and the error's kind. A cell
that cannot be is named with its reason in `_CANNOT_BE`.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.artifact import Artifact
from mlserve.errors import MlserveError
from mlserve.server.tfs.tensor_proto import from_array
from mlserve.tensors import DType
from mlserve.testing.processes import ServerProcess, launched, wait_until
from mlserve.testing.questions import predict_method
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.requests import APIS, PHOTO, Asked, ask_command, ask_grpc, ask_rest

pytestmark = pytest.mark.server

PROTOCOLS = ("grpc", "rest")


Serving = AbstractContextManager[ServerProcess]


def echo_server(folder: Path, *options: str, **config: Any) -> Serving:
    version = folder / "m" / "1"
    version.mkdir(parents=True)
    (version / "echo.json").write_text(json.dumps(config))
    return launched("echo", Artifact.open(version.parent, "m", 1), *options)


@dataclass
class Started:
    """Starts servers of the echo backend, which end with the row; `plain` serves several rows."""

    folder: Path
    plain: ServerProcess

    @property
    def journal(self) -> Path:
        """Where the model notes what it runs."""
        return self.folder / "journal"

    @contextmanager
    def server(self, *options: str, ready: bool = True, **config: Any) -> Iterator[ServerProcess]:
        self.journal.touch()
        config = {"journal": str(self.journal), **config}
        with echo_server(self.folder, "--threads", "1", *options, **config) as server:
            if ready:
                server.wait_ready()
            yield server


Prepare = Callable[[Started], AbstractContextManager[Asked]]


def asking(**asked: Any) -> Prepare:
    """Nothing is wrong with the server, only with the question."""
    return lambda start: nullcontext(Asked(start.plain.grpc, start.plain.rest, **asked))


@contextmanager
def stalled(start: Started) -> Iterator[Asked]:
    """The deadline passes at the client, as the server does nothing at all."""
    with start.server() as server:
        server.process.send_signal(signal.SIGSTOP)
        try:
            yield Asked(server.grpc, server.rest, timeout=1.0)
        finally:
            server.process.send_signal(signal.SIGCONT)


@contextmanager
def busy(start: Started, server: ServerProcess) -> Iterator[None]:
    """While the server's one thread runs a request."""
    request = PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "slow"
    array = np.array([60.0], np.float32)
    request.inputs["seconds"].CopyFrom(from_array(array, DType.FLOAT32))
    with grpc.insecure_channel(server.grpc) as channel:
        call = predict_method(channel).future(request, timeout=120)
        wait_until(lambda: "slow" in start.journal.read_text())
        yield
        call.cancel()
        server.process.kill()  # what runs would hold it up for a minute


@contextmanager
def full(start: Started) -> Iterator[Asked]:
    with start.server("--max-queue", "0") as server, busy(start, server):
        yield Asked(server.grpc, server.rest)


@contextmanager
def too_slow(start: Started) -> Iterator[Asked]:
    """The model is known to take six seconds, the server is busy, and there is less time."""
    with start.server(delay=6) as server:

        def ask() -> None:
            with server.client() as client, suppress(MlserveError):
                while True:
                    client.predict(PHOTO, timeout=60)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        wait_until(lambda: start.journal.read_text().count("top_k") > 1)
        yield Asked(server.grpc, server.rest, timeout=5.0)
        server.process.kill()
        for asker in askers:
            asker.join()


@contextmanager
def starting(start: Started) -> Iterator[Asked]:
    with start.server(ready=False, load_delay=60) as server:
        wait_until(lambda: server.state(1) == "LOADING")
        yield Asked(server.grpc, server.rest, timeout=10.0)


@contextmanager
def draining(start: Started) -> Iterator[Asked]:
    with start.server("--drain-timeout", "60") as server, busy(start, server):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: " in server.log())
        yield Asked(server.grpc, server.rest, timeout=10.0)


@contextmanager
def unreachable(start: Started) -> Iterator[Asked]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*bound.getsockname())
        yield Asked(address, address, timeout=10.0)


@contextmanager
def guarded(start: Started) -> Iterator[Asked]:
    token = start.folder / "token"
    token.write_text("a-token-of-the-tests\n")
    token.chmod(0o600)
    with start.server("--token-file", str(token), ready=False) as server:
        wait_until(lambda: "is available" in server.log())
        yield Asked(server.grpc, server.rest)


@contextmanager
def failing(start: Started) -> Iterator[Asked]:
    with start.server(fail_run="the model is broken") as server:
        yield Asked(server.grpc, server.rest)


@dataclass(frozen=True)
class Row:
    """A situation, and what it is on the wire, in both APIs or in each, and in the command."""

    prepare: Prepare
    grpc: str | dict[str, str]
    http: int | dict[str, int]
    exit_code: int
    kinds: tuple[str, ...]


TABLE = {
    "the deadline passes at the client": Row(
        stalled, "DEADLINE_EXCEEDED", 504, 124, ("deadline_exceeded",)
    ),
    "the deadline has passed at the server": Row(
        asking(timeout=0.0), "DEADLINE_EXCEEDED", 504, 124, ()
    ),
    "the queue is full": Row(full, "RESOURCE_EXHAUSTED", 429, 7, ("overloaded",)),
    "it cannot make the deadline": Row(too_slow, "RESOURCE_EXHAUSTED", 429, 7, ("overloaded",)),
    "starting": Row(starting, "UNAVAILABLE", 503, 5, ("unavailable",)),
    "draining": Row(draining, "UNAVAILABLE", 503, 5, ("unavailable",)),
    "unreachable": Row(unreachable, "UNAVAILABLE", 503, 5, ("unavailable",)),
    "not an image": Row(
        asking(image=b"bad"), "INVALID_ARGUMENT", 415, 2, ("not_an_image", "invalid_input")
    ),
    "a wrong input": Row(asking(input="picture"), "INVALID_ARGUMENT", 400, 2, ()),
    "too large": Row(  # gRPC has its own word, before any code of ours
        asking(image=PHOTO * 1000), "RESOURCE_EXHAUSTED", 413, 2, ("input_too_large",)
    ),
    "an unknown model": Row(asking(model="nope"), "NOT_FOUND", 404, 2, ("not_found",)),
    "an unknown version": Row(asking(version=9), "NOT_FOUND", 404, 2, ("not_found",)),
    "an unknown signature": Row(  # TensorFlow Serving's clients know it by codes of its own
        asking(signature="nope"),
        {"tfs": "FAILED_PRECONDITION", "oip": "NOT_FOUND"},
        {"tfs": 400, "oip": 404},
        2,
        (),
    ),
    "unauthenticated": Row(guarded, "UNAUTHENTICATED", 401, 2, ("access_denied",)),
    "the model fails": Row(failing, "INTERNAL", 500, 6, ("inference_failed",)),
}
_CANNOT_BE = {
    ("the deadline passes at the client", "wire", "rest"): "HTTP has no word for it",
    ("unreachable", "wire", "rest"): "there is nobody to answer",
    ("the deadline has passed at the server", "cli", None): "the command sends nothing then",
    ("a wrong input", "cli", None): "the command takes the names from the server",
    ("an unknown signature", "cli", None): "the command takes the names from the server",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server in a state of peace, which takes small requests only."""
    with echo_server(tmp_path_factory.mktemp("plain"), "--max-request-bytes", "10000") as server:
        server.wait_ready()
        yield server


def can_be(row: str, through: str, protocol: str) -> bool:
    return not {(row, through, None), (row, through, protocol)} & set(_CANNOT_BE)


def _rows() -> list[Any]:
    """Every row; one of them depends on time, and so runs with nothing beside it."""
    alone = "it cannot make the deadline"
    return [pytest.param(name, marks=[pytest.mark.alone] * (name == alone)) for name in TABLE]


@pytest.mark.parametrize("name", _rows())
def test_a_row(name: str, plain: ServerProcess, tmp_path: Path) -> None:
    """Both APIs say the same in each cell where the table does not say otherwise."""
    row = TABLE[name]
    with row.prepare(Started(tmp_path, plain)) as asked:
        if can_be(name, "wire", "grpc"):
            check_grpc(row, asked)
        if can_be(name, "wire", "rest"):
            check_http(row, asked)
        for protocol in PROTOCOLS:
            if can_be(name, "cli", protocol):
                check_command(row, asked, protocol, tmp_path / "photo.jpg")


def check_grpc(row: Row, asked: Asked) -> None:
    with grpc.insecure_channel(asked.grpc) as channel:
        codes = {api: ask_grpc(channel, asked, api) for api in APIS}
    assert codes == (row.grpc if isinstance(row.grpc, dict) else dict.fromkeys(APIS, row.grpc))


def check_http(row: Row, asked: Asked) -> None:
    """The status code, with an error's text, and with when to come back where that is said."""
    with httpx.Client(timeout=10) as client:
        answers = {api: ask_rest(client, asked, api) for api in APIS}
    statuses = {api: answer.status_code for api, answer in answers.items()}
    assert statuses == (row.http if isinstance(row.http, dict) else dict.fromkeys(APIS, row.http))
    for answer in answers.values():
        assert answer.json()["error"]
        assert row.http != 429 or int(answer.headers["retry-after"]) >= 1


def check_command(row: Row, asked: Asked, protocol: str, photo: Path) -> None:
    """The exit code, the error as JSON on standard error, and nothing on standard output."""
    photo.write_bytes(asked.image)
    for api, (code, stdout, stderr) in ask_command(photo, asked, protocol).items():
        assert (api, code, stdout) == (api, row.exit_code, ""), stderr
        error = json.loads(stderr)["error"]
        assert error["kind"] in row.kinds, (api, error)
        assert error["exit_code"] == row.exit_code
        assert error["hint"]


def test_the_table_has_a_row_for_each_exit_code_of_an_answer() -> None:
    assert {row.exit_code for row in TABLE.values()} == {2, 5, 6, 7, 124}
