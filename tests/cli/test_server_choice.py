"""Which server a command asks when no endpoint is given: the one on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.launch.process import created
from mlserve.launch.records import ServerRecord, write_record

pytestmark = pytest.mark.server


@pytest.fixture
def record(echo: Any, tmp_path: Path) -> Any:
    """`record(model="m")` writes down the echo server as one that `mlserve up` started."""

    def write(**changes: Any) -> None:
        model = changes.get("model", "inception_v3")
        values: dict[str, Any] = {
            "name": f"echo-{model}",
            "backend": "echo",
            "model": model,
            "versions": [],
            "base_path": str(tmp_path),
            "launcher": "embedded",
            "pid": echo.process.pid,
            "pid_created": created(echo.process.pid),
            "host": "127.0.0.1",
            "grpc_port": int(echo.grpc.rpartition(":")[2]),
            "rest_port": int(echo.rest.rpartition(":")[2]),
            "log": str(tmp_path / "log"),
            "started": "2026-01-01T00:00:00Z",
            "has_random_weights": False,
            "is_ready": True,
        }
        write_record(ServerRecord.from_json({**values, **changes}))

    return write


def test_no_server(cli: Any, photo: Path) -> None:
    for arguments in (["predict", photo], ["status"], ["metadata"]):
        outcome = cli(*arguments)

        assert outcome.returncode == 5
        assert "mlserve up" in outcome.stderr


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_one_server(cli: Any, record: Any, photo: Path, protocol: str) -> None:
    record()
    options = ["--protocol", protocol, "--output", "json"]
    outcome = cli("predict", photo, *options)

    assert outcome.json()["protocol"] == protocol
    assert cli("status", *options).json()["model"] == "inception_v3"


def test_one_of_several(cli: Any, record: Any, photo: Path) -> None:
    record()
    record(model="other")
    several = cli("predict", photo)
    chosen = cli("predict", photo, "--model", "inception_v3")

    assert several.returncode == 2
    assert "for example: --server echo-inception_v3\n" in several.stderr
    assert chosen.stdout == "sorrel\n"


def test_a_server_that_has_ended_is_no_choice(cli: Any, record: Any, photo: Path) -> None:
    """It was killed, say: its record stays until the next `mlserve ps`."""
    record()
    record(model="gone", pid_created=1.0)
    assert cli("predict", photo).stdout == "sorrel\n"
    record(model="other")
    several = cli("predict", photo)

    assert several.returncode == 2
    assert "2 servers are running: echo-inception_v3, echo-other" in several.stderr


def test_two_backends_of_one_model(cli: Any, record: Any, start_echo: Any, photo: Path) -> None:
    """The same model served by two runtimes: `predict` does not guess which one is meant."""
    record()
    other = start_echo(label="zebra")
    record(
        name="second-inception_v3",
        backend="second",
        pid=other.process.pid,
        pid_created=created(other.process.pid),
        grpc_port=int(other.grpc.rpartition(":")[2]),
        rest_port=int(other.rest.rpartition(":")[2]),
    )
    several = cli("predict", photo)
    chosen = [cli("predict", photo, "--backend", name) for name in ("echo", "second")]
    missing = cli("predict", photo, "--backend", "third")

    assert several.returncode == 2
    assert several.stderr == (
        "error: 2 servers are running: echo-inception_v3, second-inception_v3\n"
        "hint: choose one by its name, for example: --server echo-inception_v3\n"
    )
    assert [outcome.stdout for outcome in chosen] == ["sorrel\n", "zebra\n"]
    assert missing.returncode == 5
    assert "no server with backend 'third' is running (running: echo-" in missing.stderr


def test_a_name_of_ps_chooses_the_server(cli: Any, record: Any, photo: Path) -> None:
    """Every command takes the names that `ps` shows, and says how where it needs one."""
    record()
    record(name="echo-other", model="other")
    names = [entry["name"] for entry in cli("ps", "--output", "json").json()]
    assert names == ["echo-inception_v3", "echo-other"]

    for command in (["predict", photo], ["status"], ["metadata"]):
        several = cli(*command)
        named = cli(*command, "--server", names[0])
        assert (several.returncode, named.returncode) == (2, 0), (several.stderr, named.stderr)
        assert all(name in several.stderr for name in names)
        assert f"for example: --server {names[0]}\n" in several.stderr
    for command in ("logs", "down"):
        several = cli(command)
        assert several.returncode == 2
        assert all(name in several.stderr for name in names)
        assert f"for example: mlserve {command} {names[0]}" in several.stderr

    wrong = cli("status", "--server", "echo-nobody")
    assert (wrong.returncode, "no server with name 'echo-nobody' is running" in wrong.stderr) == (
        5,
        True,
    )
    both = cli("status", "--server", names[0], "--endpoint", "127.0.0.1:1")
    assert (both.returncode, "--server chooses among running servers" in both.stderr) == (2, True)


def test_random_weights_on_record_are_told(cli: Any, record: Any, photo: Path) -> None:
    record(has_random_weights=True)
    outcome = cli("predict", photo, "--output", "json")

    assert outcome.json()["has_random_weights"] is True
    assert outcome.stderr.startswith("warning: the model has random weights")


def test_an_endpoint_and_a_backend_contradict(cli: Any, photo: Path) -> None:
    outcome = cli("predict", photo, "--endpoint", "127.0.0.1:1", "--backend", "echo")

    assert outcome.returncode == 2
    assert "hint: give only one of the two" in outcome.stderr
