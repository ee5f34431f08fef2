"""The real TorchServe, started as `mlserve up --launcher native` starts it.

It serves models of the backend `echo`, which can be slow and fail, beside a model with a handler
that is not mlserve's, in an archive that the real torch-model-archiver made. It is skipped without
Java, and where `make foreign` could not install TorchServe.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mlserve_torch.torchserve import server_specs

from mlserve.backend import Listen
from mlserve.client import Client, Retries
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InputTooLarge,
    InvalidInput,
    MlserveError,
    NotFound,
    UsageError,
)
from mlserve.launch.command import Process, spawn
from mlserve.launcher import ServerCommand
from mlserve.paths import state_dir
from mlserve.testing.processes import wait_until
from tests.foreign.servers import environment
from tests.harness.command import FREE_PORTS, Command
from tests.harness.echo import PHOTO, manifest, put_version
from tests.harness.ports import free_ports

pytestmark = [pytest.mark.framework, *[pytest.mark.foreign, pytest.mark.server]]

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
ONCE = Retries(max_attempts=1)
VERSIONS = {"m": {1: {"label": "ox"}, 2: {}}, "lost": {5: {"fail_load": "torn file"}}}
"""Each has a worker of its own, which takes three seconds of a CPU to start: it imports PyTorch."""
LONGEST_START = 240.0
"""Seconds. Java and four workers take 16 s of the CPUs, which are those of the other tests, too."""
STRANGER = """
import json

class Colours:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        [row] = data
        image = bytes(row.get("data") or row.get("body") or b"")
        if not image.startswith(b"\\xff\\xd8"):
            raise ValueError("not a photo")
        return [{"green": 0.25, "red": 0.75}]
"""


@pytest.fixture(scope="module")
def surroundings() -> Mapping[str, str]:
    """The environment in which `torchserve` is on PATH, and its Python finds mlserve."""
    python = environment("torchserve") / "bin" / "python"
    if shutil.which("java") is None:
        pytest.skip("TorchServe needs java on PATH")
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    # What pip wrote names the folder that the environment was built in.
    script = folder / "torchserve"
    script.write_text(f"#!{python}\nfrom ts.model_server import start\nstart()\n")
    script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    yield {"PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    shutil.rmtree(folder)


class TorchServe:
    """A TorchServe with the models of VERSIONS and the stranger's."""

    def __init__(self, folder: Path, surroundings: Mapping[str, str]) -> None:
        self.listen = Listen("127.0.0.1", *free_ports(2))
        self.log = folder / "log"
        self._folder = folder
        self._surroundings = surroundings
        self.process: Process | None = None

    def start(self) -> None:
        spec = replace(self._spec(), argv=())
        argv, files = list(self._spec().argv), {}
        del argv[argv.index("--models") + 1 :]
        for model, versions in VERSIONS.items():
            base_path = self._folder / model
            for version, config in versions.items():
                put_version(base_path / str(version), manifest=manifest(model), **config)
            [each] = server_specs("echo", base_path, model, tuple(versions), self.listen)
            argv += each.argv[each.argv.index("--models") + 1 :]
            files |= each.files
        argv.append(f"stranger={self._archive()}")  # TorchServe looks for it in the store
        executable = shutil.which(spec.executable, path=self._surroundings["PATH"])
        assert executable is not None
        env = {**spec.env, **self._surroundings}
        command = ServerCommand((executable, *argv), env, files)
        self.process = spawn(command, "torch-m", self.log)

    def client(self, protocol: str, model: str = "m", **options: Any) -> Client:
        grpc = f"127.0.0.1:{self.listen.grpc_port}"
        endpoint = grpc if protocol == "grpc" else f"http://127.0.0.1:{self.listen.rest_port}"
        return Client(endpoint, model=model, **{"retries": ONCE, **options})

    def answers(self, model: str) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with self.client("grpc", model) as client:
            try:
                client.status(timeout=5)
            except MlserveError:
                return False
        return True

    def stop(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _spec(self) -> Any:
        [spec] = server_specs("echo", self._folder, "m", (1,), self.listen)
        return spec

    def _archive(self) -> str:
        store = state_dir() / "files" / "torch-m" / "store"
        store.mkdir(parents=True, mode=0o700)
        handler = self._folder / "colours.py"
        handler.write_text(STRANGER)
        _archive(
            self._surroundings,
            self._folder,
            *("--model-name", "stranger", "--version", "1.0", "--handler", handler),
            *("--export-path", store),
        )
        return "stranger.mar"


def _archive(surroundings: Mapping[str, str], folder: Path, *arguments: object) -> None:
    """Run the real torch-model-archiver, which deletes $TMPDIR/<model name>, in that folder."""
    script = Path(shutil.which("torchserve", path=surroundings["PATH"]) or "")
    python = script.read_text().splitlines()[0].removeprefix("#!")
    for each in ("out", "tmp"):
        (folder / each).mkdir(exist_ok=True)
    subprocess.run(
        [python, "-m", "model_archiver.model_packaging", *map(str, arguments)],
        check=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
    )


@pytest.fixture(scope="module")
def server(surroundings: Mapping[str, str]) -> Iterator[TorchServe]:
    # Its workers' sockets are in this folder, and the name of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLSERVE_HOME", str(folder))
        found = TorchServe(folder, surroundings)
        found.start()
        try:
            models = (*VERSIONS, "stranger")
            wait_until(lambda: all(map(found.answers, models)), timeout=LONGEST_START)
            yield found
        finally:
            found.stop()
            shutil.rmtree(folder)


@PROTOCOLS
def test_an_image_is_answered_by_the_highest_version(server: TorchServe, protocol: str) -> None:
    with server.client(protocol) as client:
        answer = client.predict(PHOTO, timeout=20, top_k=3)
    assert (answer.label, answer.version, answer.api) == ("sorrel", 2, "torchserve")
    assert [score.label for score in answer.scores] == ["sorrel", "zebra", "ox"]
    assert answer.scores[0].index == 0


@PROTOCOLS
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_tensors_come_back_bit_for_bit(server: TorchServe, protocol: str, dtype: str) -> None:
    rows = np.array([[0, 1, 0.1], [1, np.pi, 255]]).astype(dtype)
    with server.client(protocol) as client:
        answer = client.infer({"x": rows}, signature=f"identity_{dtype}", timeout=20)["y"]
    assert (answer.dtype, answer.shape) == (rows.dtype, (2, 3))
    assert answer.tobytes() == rows.tobytes()


@PROTOCOLS
def test_texts_and_several_outputs(server: TorchServe, protocol: str) -> None:
    with server.client(protocol) as client:
        texts = client.infer({"x": ["good", "K\u00e4se"]}, signature="identity_bytes", timeout=20)
        both = client.infer({"a": [2.0], "b": [3.0]}, signature="two", timeout=20)
        with pytest.raises(InvalidInput, match=r"missing: .b."):
            client.infer({"a": [2.0]}, signature="two", timeout=20)
    assert list(texts["y"]) == [b"good", "K\u00e4se".encode()]
    assert {name: value.tolist() for name, value in both.items()} == {
        "sum": [5.0],
        "product": [6.0],
    }


@PROTOCOLS
def test_a_version_can_be_named(server: TorchServe, protocol: str) -> None:
    with server.client(protocol, version=1, api="torchserve") as client:
        answer = client.predict(PHOTO, timeout=20)
    assert (answer.label, answer.version) == ("ox", 1)


@PROTOCOLS
def test_what_it_serves(server: TorchServe, protocol: str) -> None:
    with server.client(protocol) as client:
        rows = client.status(timeout=20)
        metadata = client.metadata(timeout=20)
    assert [(row.version, row.state) for row in rows] == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    assert metadata.version == 2
    assert [str(spec) for spec in metadata.signatures[0].inputs] == ["image: bytes[?]"]
    assert {"top_k", "ranking"} <= set(metadata.selectable)
    assert metadata.contract is not None
    assert metadata.contract["pipeline"]["height"] == 8


@PROTOCOLS
def test_what_it_does_not_serve(server: TorchServe, protocol: str) -> None:
    with server.client(protocol, "nobody") as client, pytest.raises(NotFound, match="nobody"):
        client.predict(PHOTO, timeout=20)
    with server.client(protocol, version=7) as client, pytest.raises(NotFound, match="7"):
        client.predict(PHOTO, timeout=20)


@PROTOCOLS
def test_what_is_no_image_is_refused_with_its_index(server: TorchServe, protocol: str) -> None:
    with server.client(protocol) as client, pytest.raises(InvalidInput, match="image 0") as error:
        client.predict(b"bad image", timeout=20)
    assert "org.pytorch" not in error.value.message
    with server.client(protocol) as client:
        assert client.predict(PHOTO, timeout=20).label == "sorrel"


@PROTOCOLS
def test_the_deadline_is_the_clients(server: TorchServe, protocol: str) -> None:
    with server.client(protocol) as client:
        assert client.metadata(timeout=20).version == 2
        with pytest.raises(DeadlineExceeded):
            client.infer({"seconds": [2.0]}, signature="slow", timeout=0.5)
        assert client.predict(PHOTO, timeout=30).label == "sorrel"


@PROTOCOLS
def test_a_run_that_fails_is_not_tried_again(server: TorchServe, protocol: str) -> None:
    with (
        server.client(protocol, retries=Retries(max_attempts=3)) as client,
        pytest.raises(InferenceFailed, match="internal error; the server's log") as error,
    ):
        client.infer({"seconds": [0.0]}, signature="crash", timeout=20)
    assert error.value.details["attempts"] == 1


@PROTOCOLS
def test_a_model_that_does_not_load_says_why(server: TorchServe, protocol: str) -> None:
    with server.client(protocol, "lost") as client:
        [row] = client.status(timeout=20)
        assert (row.version, row.state, row.error) == (5, "END", "torn file")
        with pytest.raises(InferenceFailed, match="version 5 of lost does not load: torn file"):
            client.predict(PHOTO, timeout=20)


@PROTOCOLS
def test_a_handler_of_someone_else_gets_the_file(server: TorchServe, protocol: str) -> None:
    with server.client(protocol, "stranger", retries=Retries(max_attempts=3)) as client:
        answer = client.predict(PHOTO, timeout=20)
        assert [(s.label, s.score) for s in answer.scores] == [("red", 0.75), ("green", 0.25)]
        assert answer.version is None
        with pytest.raises(InferenceFailed, match="Prediction failed") as error:
            client.predict(b"a letter", timeout=20)
        assert error.value.details["attempts"] == 1
        [row] = client.status(timeout=20)
        assert (row.version, row.state) == (None, "AVAILABLE")
        with pytest.raises(UsageError, match="does not describe the model stranger"):
            client.metadata(timeout=20)


def test_a_request_that_is_too_large(server: TorchServe) -> None:
    with server.client("rest") as client, pytest.raises(InputTooLarge):
        client.predict(PHOTO + bytes(64 * 2**20), timeout=60)


def test_a_model_folder_is_what_the_archiver_would_make(
    surroundings: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "m" / "3").mkdir(parents=True)
    [spec] = server_specs("torch", tmp_path / "m", "m", (3,), Listen("127.0.0.1", 1, 2))
    for name in ("torchserve_handler.py", "model.json"):
        (tmp_path / name).write_text(spec.files[f"store/3/{name}"])
    _archive(
        surroundings,
        tmp_path,
        *("--model-name", "m", "--version", "3", "--handler", tmp_path / "torchserve_handler.py"),
        *("--extra-files", tmp_path / "model.json", "--archive-format", "no-archive"),
        *("--export-path", tmp_path / "out"),
    )
    made = tmp_path / "out" / "m"
    ours = {name.removeprefix("store/3/") for name in spec.files if name.startswith("store/")}
    assert {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()} == ours
    manifest = json.loads((made / "MAR-INF" / "MANIFEST.json").read_text())
    del manifest["createdOn"]
    assert json.loads(spec.files["store/3/MAR-INF/MANIFEST.json"]) == manifest


def test_a_command_line_story(surroundings: Mapping[str, str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    # In the current folder, which TorchServe looks at too, the version is no model of its own.
    cli = Command(folder, {**surroundings, "MLSERVE_HOME": str(folder)})
    up = ("up", "--backend", "torch", "--launcher", "native", "--model", "linear")
    up += ("--path", folder, "--wait", "140")
    try:
        _export(folder / "1")
        started = cli(*up, *FREE_PORTS, timeout=150)
        assert started.returncode == 0, started.stderr
        assert "does not follow newer ones" in started.stderr
        [row] = cli.json("ps")
        assert (row["status"], row["launcher"]) == ("ready", "native")
        assert cli.json("status")["versions"][0]["state"] == "AVAILABLE"
        assert cli.json("metadata", "--protocol", "rest")["api"] == "torchserve"
        assert "Model server started." in cli("logs").stdout
        tree = [psutil.Process(row["pid"])]
        tree += tree[0].children(recursive=True)
        assert len(tree) >= 3  # the script, Java and a worker

        down = cli("down")

        assert (down.returncode, down.stdout) == (0, "torch-linear is stopped\n"), down.stderr
        assert not [each for each in tree if _runs(each)]
        (folder / "1" / "model.pt2").write_bytes(b"torn")
        failed = cli(*up, *FREE_PORTS, timeout=150)
        assert failed.returncode == 5
        assert "error: version 1 of linear does not load" in failed.stderr  # not: after --wait
        assert cli.json("ps") == []
        refused = cli(*up, *FREE_PORTS, "--model", "m" * 80)
        assert refused.returncode == 2
        assert "set MLSERVE_HOME to a shorter path" in refused.stderr
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLSERVE_HOME", str(folder))
            cli.end()
        shutil.rmtree(folder)


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _export(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    folder.mkdir()
    example = (torch.ones(2, 4),)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(torch.nn.Linear(4, 3), example, dynamic_shapes=(batch,))
    torch.export.save(program, folder / "model.pt2")
