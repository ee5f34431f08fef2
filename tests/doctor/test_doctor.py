"""`mlserve doctor`: each finding on a machine that is as the test makes it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mlserve import plugins
from mlserve.backend import Listen
from mlserve.cli.app import app
from mlserve.doctor import machine, software
from mlserve.doctor.finding import Finding, Status
from mlserve.doctor.software import known_conflicts
from mlserve.launch.process import created
from mlserve.system import memory_limit

Installed = Callable[..., None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Puts the metadata of a distribution in front of all that is installed."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))

    def add(name: str, version: str, *requires: str, plugin: str | None = None) -> None:
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        lines += [f"Provides-Extra: {x}" for x in re.findall(r"extra == '(\w+)'", str(requires))]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        if plugin is not None:
            (folder / "entry_points.txt").write_text(f"[mlserve]\n{plugin}\n")

    return add


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that answers where TF-Hub should be."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        monkeypatch.setenv("MLSERVE_TFHUB_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def doctor(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlserve", "doctor", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"},
    )


def named(findings: list[Finding], name: str) -> Finding:
    return next(found for found in findings if found.name == name)


@pytest.mark.server
def test_a_machine_with_everything_passes_and_every_warning_has_its_fix(
    home: Path, hub: None
) -> None:
    done = doctor("--output", "json")

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    findings = told["findings"]
    assert told["works"]
    areas = list(dict.fromkeys(found["area"] for found in findings))
    assert areas == ["software", "launchers", "machine", "files", "network"]
    assert all(found["fix"] for found in findings if found["status"] != "ok")
    libraries = next(found for found in findings if found["name"] == "libraries")
    assert {"protobuf", "numpy", "tensorflow", "onnxruntime"} <= set(libraries["data"]["versions"])
    store = next(found for found in findings if found["name"] == "store")
    assert store["data"]["path"] == str(home / "data" / "models")
    assert not home.exists()  # looking changes nothing


@pytest.mark.server
def test_a_default_backend_that_is_broken_fails_and_says_how_to_go_on(
    installed: Installed, hub: None
) -> None:
    installed("mlserve-tfserving", "0.1.0", plugin="tfserving = no_such_module")

    done = doctor()

    assert done.returncode == 3
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:2] == ["fail", "tfserving"])
    told = " ".join(line.strip() for line in lines[at : at + 6])
    why = "ModuleNotFoundError: No module named 'no_such_module'"
    assert f"does not load: {why} fix: reinstall or uninstall" in told
    assert done.stderr == ("the default path (export, up, predict) does not work here: 1 to fix\n")


@pytest.mark.server
def test_nothing_heavy_is_imported() -> None:
    script = (
        "from mlserve.doctor.run import examine; examine(); import sys; print("
        "{'tensorflow', 'onnxruntime', 'numpy', 'onnx', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.server
def test_a_package_that_does_not_get_what_it_declares_is_told_by_pip(installed: Installed) -> None:
    installed("toy", "1", "protobuf>=99", "toy-absent")

    found = software.pip_check()

    assert found.status is Status.WARN
    assert "toy 1 requires toy-absent, which is not installed" in found.text
    assert "toy 1 has requirement protobuf>=99, but you have protobuf" in found.text


def test_conflicts_that_nobody_declares_are_known(installed: Installed) -> None:
    assert known_conflicts() == []
    installed("tf2onnx", "1.16.1")
    installed("onnxruntime-gpu", "1.20")

    ones = [(known.one, known.other) for known in known_conflicts()]

    assert ones == [("tf2onnx<1.17", "numpy>=2"), ("onnxruntime", "onnxruntime-gpu")]


def test_a_port_that_is_taken_is_named_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = machine.port_finding("port gRPC", port)
    assert found.status is Status.WARN
    assert f"{port} is taken" in found.text
    assert f"(pid {os.getpid()})" in found.text
    assert machine.port_finding("port gRPC", port).status is Status.OK


def test_a_port_is_not_that_of_a_server_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        pid, listen = os.getpid(), Listen("127.0.0.1", port, port)
        record = SimpleNamespace(name="mine", listen=listen, container=None, pid=pid)
        record.pid_created = created(pid)
        monkeypatch.setattr(machine, "read_records", lambda _: [record])
        assert "is mine's, a server of" in machine.port_finding("port gRPC", port).text
        record.pid_created = 1.0
        found = machine.port_finding("port gRPC", port)
    assert f"(pid {pid})" in found.text


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max"}, None),
        ({"memory.max": "1073741824"}, 2**30),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"memory/memory.limit_in_bytes": "1073741824"}, 2**30),
    ],
)
def test_the_memory_limit_is_the_cgroups(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert memory_limit(tmp_path) == limit


def test_folders_that_cannot_be_made_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLSERVE_HOME", str(tmp_path / "file" / "home"))

    found = named(list(machine.look_at_files()), "store")

    assert found.status is Status.FAIL
    assert "cannot be written" in found.text
    assert "MLSERVE_HOME" in (found.fix or "")


def test_the_store_is_counted(export, home: Path) -> None:
    export()

    findings = list(machine.look_at_files())

    assert named(findings, "store").data["bytes"] > 100
    assert named(findings, "models").text == "m (echo)"


def test_without_an_engine_docker_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    findings = list(machine.look_at_launchers())

    assert named(findings, "embedded").status is Status.OK
    assert named(findings, "docker").status is Status.WARN
    assert named(findings, "docker").text == "docker is not on PATH"
    assert named(findings, "native").text.startswith("tensorflow_model_server is not on PATH")


@pytest.mark.parametrize("is_listening", [True, False])
def test_a_network_that_does_not_answer_is_told_in_time(is_listening: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not is_listening:
            server.close()
        found = machine.reach(f"http://127.0.0.1:{port}/a/module", Status.WARN, timeout=0.3)
    assert found.status is Status.WARN
    assert f"http://127.0.0.1:{port}/ " in found.text
    assert "--model efficientnet_lite0" in (found.fix or "")


@pytest.mark.server
def test_without_the_hub_the_default_path_needs_a_model_that_is_here(
    monkeypatch: pytest.MonkeyPatch, export
) -> None:
    monkeypatch.setenv("MLSERVE_TFHUB_URL", "http://127.0.0.1:1")

    assert [found.status for found in machine.look_at_network()] == [Status.FAIL]
    export()
    assert [found.status for found in machine.look_at_network()] == [Status.WARN]


@pytest.mark.server
def test_a_default_model_that_is_in_the_cache_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLSERVE_TFHUB_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    [source] = [s for s in plugins.model_sources() if "inception_v3" in s.models]
    url = source.download("inception_v3")
    assert url is not None
    folder = tmp_path / hashlib.sha1(url.encode()).hexdigest()
    folder.mkdir()
    (folder / "saved_model.pb").touch()

    [found] = machine.look_at_network()

    assert (found.status, found.text) == (
        Status.OK,
        "inception_v3 is here already: nothing needs to be downloaded",
    )


@pytest.mark.server
def test_a_deep_look_imports_in_other_processes(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "site" / "onnxruntime.py").write_text("raise ImportError('libcuda is absent')\n")
    (tmp_path / "site" / "tensorflow.py").write_text("")

    findings = software.look_deeper()

    assert named(findings, "pip check").text
    assert named(findings, "import tensorflow").status is Status.OK
    broken = named(findings, "import onnxruntime")
    assert (broken.status, broken.text) == (Status.FAIL, "ImportError: libcuda is absent")


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("", "ok", "mlserve.toml: no servers"),
        ("x = 1\n", "fail", "mlserve.toml:1:1: 'x' is not a key of the file"),
        ("[", "fail", "mlserve.toml:1:2: this is not TOML"),
        ("[servers.line]\n", "warn", r"mlserve.toml:1:\d+: \[servers.line\] has no models"),
        (
            '[servers.line.models.a]\nbackend = "echo"\n',
            "warn",
            "mlserve.toml:1:22: no model 'a' has been exported for the backend 'echo'",
        ),
        (
            '[servers.line]\ntoken_file = "absent"\n[servers.line.models.a]\n',
            "warn",
            r"mlserve.toml:2:\d+: .*absent",
        ),
    ],
)
def test_the_configuration_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: str, message: str
) -> None:
    (tmp_path / "mlserve.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "look_at_network", list)
    result = CliRunner().invoke(app, ["doctor", "--output", "json"], catch_exceptions=False)
    found = [f for f in json.loads(result.stdout)["findings"] if f["name"] == "configuration"]
    assert found[0]["status"] == status
    assert re.search(message, found[0]["text"])
    assert found[0]["fix"] or status == "ok"
