"""A server that follows a configuration file: what changes it applies, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.errors import NotFound, UsageError
from mlserve.served_model import ServedModel
from mlserve.server.config_file import ConfigFile, StartedWith
from mlserve.server_state import ServerState
from mlserve.settings import ServerSettings
from mlserve.testing.processes import ServerProcess, stopping, wait_until
from tests.harness.echo import put_version

STARTED = StartedWith("127.0.0.1", 8500, 8501, ServerSettings())
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("a", b=2)` writes a file with these models (a value is its `threads`), atomically."""

    def write(*names: str, head: str = "", **threads: int) -> Path:
        text = f"[servers.line]\n{head}\n"
        for name in (*names, *threads):
            text += f'[servers.line.models.{name}]\npath = "{name}"\nbackend = "echo"\n'
            text += f"threads = {threads[name]}\n" if name in threads else ""
        return write_text(tmp_path, text)

    return write


def write_text(folder: Path, text: str) -> Path:
    (folder / "new").write_text(text)
    return (folder / "new").rename(folder / "mlserve.toml")


def put(folder: Path, name: str, **config: object) -> None:
    put_version(folder / name / "1", **{"label": name, **config})


class FileServer(ServerProcess):
    """A server of `mlserve.toml` in a folder, queried over REST."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        super().__init__(process, "", folder / "log")
        self.state_path = folder / "state"

    def label(self, model: str) -> Any:
        """Return the model's answer, or the status of one that is not 200."""
        url = f"http://{self.rest}/v1/models/{model}:predict"
        answer = httpx.post(url, json={"inputs": ["x"]}, timeout=20)
        return answer.json()["outputs"][0] if answer.status_code == 200 else answer.status_code

    def served(self) -> dict[str, int | None]:
        """Return the threads of each model by its name, by the state that the server writes."""
        return {model.model: model.options.threads for model in self._state().models}

    def problem(self) -> str:
        return self._state().problem

    def _state(self) -> ServerState:
        return ServerState.from_json(json.loads(self.state_path.read_text()))

    def metric(self, name: str) -> float:
        page = httpx.get(f"http://{self.rest}/metrics").text
        return float(next(line for line in page.splitlines() if line.startswith(name)).split()[1])


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., FileServer]]:
    with ExitStack() as stack:

        def launch(*flags: str) -> FileServer:
            argv = [sys.executable, "-m", "mlserve.server", "--server=line", *flags]
            argv += [f"--config={tmp_path / 'mlserve.toml'}", f"--state={tmp_path / 'state'}"]
            log = stack.enter_context((tmp_path / "log").open("wb"))
            process = subprocess.Popen(
                [*argv, "--grpc-port=0", "--rest-port=0"], stderr=log, cwd=tmp_path
            )
            stack.enter_context(process)
            stack.enter_context(stopping(process))
            return FileServer(process, tmp_path)

        yield launch


@pytest.mark.server
def test_the_file_is_followed_and_no_request_is_lost(
    tmp_path: Path, write: Write, launch: Callable[..., FileServer]
) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path, name, delay=0.01, journal=str(tmp_path / f"{name}.journal"))
    write(a=1, b=1)
    server = launch("--poll-seconds=0.05")
    wait_until(lambda: (server.label("a"), server.label("b")) == ("a", "b"))
    stop = threading.Event()

    def ask(model: str) -> set[Any]:
        seen: set[Any] = set()
        while not stop.is_set():
            seen.add(server.label(model))
        return seen

    with ThreadPoolExecutor(1) as clients, ExitStack() as ending:
        ending.callback(stop.set)  # whatever fails
        kept = clients.submit(ask, "b")

        write(b=1, c=1)
        wait_until(lambda: (server.label("a"), server.label("c")) == (404, "c"))

        write_text(tmp_path, '[servers.line]\n[servers.line.models.b]\npath = "b\n')
        wait_until(lambda: server.metric("mlserve_config_in_force") == 0)
        wait_until(server.problem)
        place = "mlserve.toml:3:"
        told = f"refused {tmp_path}/mlserve.toml and goes on with what it said before: {place}"
        assert server.problem().startswith(told)
        assert f"refused, and the old one goes on: {place}" in server.log()
        assert server.served() == {"b": 1, "c": 1}

        write(b=2, c=1)
        wait_until(lambda: server.served() == {"b": 2, "c": 1})
        wait_until(lambda: "version 1 of b is unloaded" in server.log())
        wait_until(lambda: server.metric("mlserve_config_in_force") == 1)
        stop.set()
        assert kept.result() == {"b"}
    assert server.problem() == ""
    assert "close" not in (tmp_path / "c.journal").read_text()
    log = server.log()
    again = log.rindex("version 1 of b is available")
    assert again < log.index("version 1 of b is unloaded"), "the new one before the old one goes"


@pytest.mark.server
def test_a_split_of_a_model_comes_and_goes_with_the_file(
    tmp_path: Path, write: Write, launch: Callable[..., FileServer]
) -> None:
    put(tmp_path, "a", journal=str(tmp_path / "journal"))
    put_version(tmp_path / "a" / "2", label="b")
    table = '[servers.line]\n[servers.line.models.a]\npath = "a"\nbackend = "echo"\nversion = 1\n'
    write_text(tmp_path, table)
    server = launch("--poll-seconds=0.05")
    wait_until(lambda: server.label("a") == "a")

    def answers(count: int = 40) -> set[Any]:
        return {server.label("a") for _ in range(count)}

    def state() -> Any:
        split = httpx.get(f"http://{server.rest}/mlserve/shadow").json()["split"]
        return split["a"]["state"] if split else None

    write_text(tmp_path, table + 'split = "v2=50%,differ=100%"\n')
    wait_until(lambda: state() == "running")
    assert answers() == {"a", "b"}
    write_text(tmp_path, table + 'split = "v2=200%"\n')
    wait_until(server.problem)
    assert "mlserve.toml:6:9: " in server.problem()
    assert answers() == {"a", "b"}
    write_text(tmp_path, table)
    wait_until(lambda: state() is None)
    assert answers() == {"a"}
    assert "close" not in (tmp_path / "journal").read_text(), "version 1 was not loaded again"


@pytest.mark.server
def test_a_split_that_was_stopped_stays_so_whatever_else_changes(
    tmp_path: Path, launch: Callable[..., FileServer]
) -> None:
    put(tmp_path, "a", label="a")
    put_version(tmp_path / "a" / "2", label="b")
    table = '[servers.line]\n[servers.line.models.a]\npath = "a"\nbackend = "echo"\nversion = 1\n'
    table += 'split = "v2=50%"\n'
    write_text(tmp_path, table)
    server = launch("--poll-seconds=0.05")
    wait_until(lambda: server.label("a") == "a")

    def state() -> Any:
        return httpx.get(f"http://{server.rest}/mlserve/shadow").json()["split"]["a"]["state"]

    wait_until(lambda: server.label("a") and state() == "stopped")
    write_text(tmp_path, table + "threads = 1\n")
    wait_until(lambda: "the configuration is in force" in server.log())
    assert state() == "stopped"
    assert {server.label("a") for _ in range(40)} == {"a"}
    write_text(tmp_path, table.replace("v2=50%", "v2=40%,differ=100%"))
    wait_until(lambda: {server.label("a") for _ in range(10)} == {"a", "b"})


@pytest.mark.server
def test_sighup_has_it_read_at_once(
    tmp_path: Path, write: Write, launch: Callable[..., FileServer]
) -> None:
    put(tmp_path, "a")
    put(tmp_path, "b", fail_load="the disk is lost")
    write("a")
    server = launch("--poll-seconds=0")
    wait_until(lambda: server.label("a") == "a")

    write("a", "b")
    os.kill(server.process.pid, signal.SIGHUP)

    wait_until(lambda: "did not become available" in server.log())
    wait_until(server.problem)
    told = f"serves {tmp_path}/mlserve.toml, but this failed when it was read: 1 model"
    assert server.problem().startswith(told)
    assert "b: the disk is lost" in server.problem()
    assert "version 1 of b is not served: the disk is lost" in server.log()
    assert server.label("a") == "a"


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ('host = "0.0.0.0"', ":2:1: host is 127.0.0.1 until a restart"),
        ("grpc_port = 9000", ":2:1: grpc_port is 8500 until a restart"),
        ("max_queue = 3", ":2:1: max_queue is not set until a restart"),
        ('launcher = "docker"', ":2:1: launcher is embedded until a restart"),
        ('tls_cert = "c"\ntls_key = "k"', ":2:1: tls_cert is not set until a restart"),
    ],
)
def test_what_holds_from_the_start_needs_a_restart(
    tmp_path: Path, write: Write, head: str, told: str
) -> None:
    put(tmp_path, "a")
    file = ConfigFile(write("a", head=head), "line", STARTED)

    with pytest.raises(UsageError, match="restart") as caught:
        file.first_models()

    assert told in caught.value.message
    assert caught.value.hint == "mlserve down line && mlserve up line"


def test_ports_that_the_file_leaves_open_are_as_they_are(tmp_path: Path, write: Write) -> None:
    put(tmp_path, "a")
    path = write("a", head="grpc_port = 0\nrest_port = 8501")

    [spec] = ConfigFile(path, "line", STARTED).first_models()

    assert (spec.model, spec.base_path) == ("a", tmp_path / "a")


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ('path = "nowhere"', NotFound, "there is no folder"),
        ('path = "a"\nversion = 7', NotFound, "a has no version 7"),
        ('path = "a"\nprovider = "cuda"', UsageError, "'echo' has no --provider"),
        ('model = "absent"', NotFound, "no model 'absent' has been exported"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_its_place(
    tmp_path: Path, home: Path, line: str, kind: type[Exception], told: str
) -> None:
    put(tmp_path, "a")
    text = f'[servers.line]\n\n[servers.line.models.b]\nbackend = "echo"\n{line}\n'
    path = write_text(tmp_path, text)

    with pytest.raises(kind, match=told) as caught:
        ConfigFile(path, "line", STARTED).first_models()
    assert str(caught.value).startswith(f"{path}:3:")


def test_a_server_that_is_gone_from_the_file_is_an_error(tmp_path: Path, write: Write) -> None:
    with pytest.raises(NotFound, match="has no server 'lien'") as caught:
        ConfigFile(write("a"), "lien", STARTED).first_models()
    assert "did you mean line?" in (caught.value.hint or "")


def test_models_are_named_by_their_tables(tmp_path: Path, home: Path, export: Any) -> None:
    export("m")
    text = '[servers.line]\nthreads = 3\n[servers.line.models.new]\nbackend = "echo"\nmodel = "m"\n'
    text += '[servers.line.models.other]\nbackend = "echo"\nmodel = "m"\nthreads = 1\n'
    path = write_text(tmp_path, text)

    specs: Sequence[Any] = ConfigFile(path, "line", STARTED).first_models()

    assert [(spec.model, spec.options.threads) for spec in specs] == [("new", 3), ("other", 1)]
    assert specs[0].base_path == specs[1].base_path


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = ServerState((ServedModel("echo", "m", tmp_path),), "mlserve.toml:1:1: no")
    assert ServerState.from_json(state.to_json()) == state
