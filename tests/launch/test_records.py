"""The records of servers: written whole, read with care, told apart."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest

from mlserve import paths
from mlserve.backend import Listen
from mlserve.cluster_options import ClusterOptions
from mlserve.errors import Unavailable, UsageError
from mlserve.launch.process import created
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    select,
    state_lock,
    write_record,
)
from mlserve.launch.running import reconcile, server_of
from mlserve.launcher import OWN_TRAITS, Traits
from mlserve.load_options import LoadOptions
from mlserve.rollout import RolloutOptions
from mlserve.served_model import ServedModel
from mlserve.serving import ConfigEntry, Serving
from mlserve.settings import EMBEDDED, ServerSettings
from mlserve.store import VersionPolicy

RECORD = ServerRecord(
    name="echo-m",
    serving=Serving((ServedModel("echo", "m", Path("/models/m"), VersionPolicy((1, 2))),)),
    launcher=EMBEDDED,
    listen=Listen("127.0.0.1", 8500, 8501),
    pid=1,
    pid_created=2.5,
    log=Path("/logs/echo-m.log"),
    started="2026-01-02T03:04:05+00:00",
    is_ready=True,
    traits=OWN_TRAITS,
)
REPLICATED = replace(
    RECORD,
    launcher="ray",
    serving=replace(RECORD.serving, cluster=ClusterOptions(address="head:10001", replicas="1..4")),
    traits=Traits(is_own=True, drains=True, follows_pin=True, has_replicas=True, end_seconds=30),
)


def other(name: str, **values: object) -> ServerRecord:
    model = replace(RECORD.serving.only, **values)
    return replace(RECORD, name=name, serving=replace(RECORD.serving, models=(model,)))


def is_running(record: ServerRecord) -> bool:
    return server_of(record).is_running()


MODEL = ServedModel(
    "echo",
    "m",
    Path("/models/m"),
    VersionPolicy(serves_all=True, aside=2),
    options=LoadOptions(threads=2, provider="cpu", instances=3, allow_unsafe_ops=True),
    rollout=RolloutOptions(split="v2=5%"),
    expected=(1, 2),
    has_random_weights=True,
    takes_images=True,
)
"""A model to serve with a value of its own in each field."""
EVERYTHING = Serving(
    (MODEL,),
    settings=ServerSettings(max_queue=4, token_file=Path("/token")),
    image="image:1",
    docker_options=("--memory=2g",),
    config=ConfigEntry(Path("/etc/mlserve.toml"), "line"),
    cluster=ClusterOptions(replicas="1..4", hedge="p99"),
)
"""The same for a server."""


@pytest.mark.parametrize(
    "record",
    [RECORD, replace(RECORD, log=None), replace(RECORD, serving=EVERYTHING), REPLICATED],
)
def test_a_record_is_read_as_it_was_written(record: ServerRecord) -> None:
    write_record(record)

    assert read_records() == [record]


def test_what_a_record_was_found_to_hold_is_read_too() -> None:
    """It does not count when two are compared, so the test above does not see it."""
    [read] = ServerRecord.from_json(replace(RECORD, serving=EVERYTHING).to_json()).serving.models

    assert (read.expected, read.has_random_weights, read.takes_images) == ((1, 2), True, True)
    for value in (MODEL, EVERYTHING):
        assert all(getattr(value, f.name) != f.default for f in fields(value)), "none is missed"


def test_a_record_of_the_version_before_is_read(home: Path) -> None:
    """As mlserve 0.1 wrote it on 2026-11-25: its server runs on, whatever is installed since."""
    folder = home / "state" / "servers"
    folder.mkdir(parents=True)
    (folder / "echo-m.json").write_text(json.dumps(WRITTEN_BEFORE))

    [record] = read_records()

    assert record == replace(
        RECORD,
        serving=Serving(
            (
                ServedModel(
                    "echo",
                    "m",
                    Path("/models/m"),
                    VersionPolicy((1, 2)),
                    options=LoadOptions(threads=2, allow_unsafe_ops=True),
                ),
            ),
            settings=ServerSettings(max_queue=4),
        ),
    )
    assert record.grpc_endpoint == "127.0.0.1:8500"


WRITTEN_BEFORE = {
    "format": 1,
    "name": "echo-m",
    "backend": "echo",
    "model": "m",
    "versions": [1, 2],
    "base_path": "/models/m",
    "launcher": "embedded",
    "pid": 1,
    "pid_created": 2.5,
    "host": "127.0.0.1",
    "grpc_port": 8500,
    "rest_port": 8501,
    "log": "/logs/echo-m.log",
    "started": "2026-01-02T03:04:05+00:00",
    "has_random_weights": False,
    "is_ready": True,
    "all_versions": False,
    "threads": 2,
    "provider": None,
    "instances": None,
    "settings": {"max_queue": 4, "allow_unsafe_ops": True, "token_file": None},
    "is_stopping": False,
    "up_pid": None,
    "up_created": 0.0,
    "container": None,
    "image": None,
    "docker_options": [],
}


def test_a_record_replaces_the_one_before_and_leaves_nothing_else(home: Path) -> None:
    write_record(replace(RECORD, is_ready=False))
    write_record(RECORD)

    assert read_records() == [RECORD]
    assert [path.name for path in (home / "state" / "servers").iterdir()] == ["echo-m.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 2}', '{"format": 1}', "\x00\x01"]
)
def test_a_broken_record_is_reported_and_left_out(home: Path, text: str) -> None:
    write_record(RECORD)
    broken = home / "state" / "servers" / "broken.json"
    broken.write_text(text)
    reports: list[str] = []

    assert read_records(reports.append) == [RECORD]
    assert len(reports) == 1
    assert str(broken) in reports[0]


@pytest.mark.parametrize(
    "field", ["pid", "versions", "base_path", "grpc_port", "launcher", "traits", "cluster"]
)
def test_a_field_of_another_type_is_reported(home: Path, field: str) -> None:
    folder = home / "state" / "servers"
    folder.mkdir(parents=True)
    data = {"format": 1, **RECORD.to_json(), field: None}
    (folder / "echo-m.json").write_text(json.dumps(data))
    reports: list[str] = []

    assert read_records(reports.append) == []
    assert len(reports) == 1


def test_removing_leaves_the_record_of_a_newer_process() -> None:
    write_record(replace(RECORD, pid=2))

    remove_record(RECORD)
    assert len(read_records()) == 1

    remove_record(replace(RECORD, pid=2))
    remove_record(RECORD)
    assert read_records() == []


def test_a_state_folder_that_is_a_file_is_an_error_with_a_hint(home: Path) -> None:
    home.mkdir()
    (home / "state").write_text("")

    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_record(RECORD)
    assert caught.value.hint is not None
    assert "MLSERVE_HOME" in caught.value.hint


def test_the_only_server_is_selected() -> None:
    assert select([RECORD]) is RECORD
    assert select([RECORD], backend="echo", model="m") is RECORD


def test_several_servers_are_listed() -> None:
    records = [RECORD, other("echo-n", model="n"), other("tf-m", backend="tf")]

    with pytest.raises(UsageError, match="3 servers are running: echo-m, echo-n, tf-m"):
        select(records)
    with pytest.raises(UsageError, match="2 servers are running: echo-m, tf-m"):
        select(records, model="m")
    assert select(records, backend="tf").name == "tf-m"
    assert select(records, name="echo-n").name == "echo-n"


def test_no_server_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no server is running") as caught:
        select([])
    assert caught.value.hint == "start one: mlserve up"
    with pytest.raises(Unavailable, match=r"no server with model 'x' is running .*echo-m"):
        select([RECORD], model="x")


@pytest.mark.parametrize(
    ("host", "grpc"),
    [
        ("127.0.0.1", "127.0.0.1:8500"),
        ("0.0.0.0", "127.0.0.1:8500"),
        ("::", "[::1]:8500"),
        ("models.local", "models.local:8500"),
    ],
)
def test_endpoints_can_be_connected_to(host: str, grpc: str) -> None:
    record = replace(RECORD, listen=replace(RECORD.listen, host=host))

    assert record.grpc_endpoint == grpc
    assert record.rest_endpoint == "http://" + grpc.replace("8500", "8501")


def test_a_process_is_told_from_another_one_of_its_pid() -> None:
    ours = replace(RECORD, pid=os.getpid(), pid_created=created(os.getpid()))

    assert is_running(ours)
    assert not is_running(replace(ours, pid_created=ours.pid_created - 1))


def test_a_zombie_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = replace(RECORD, pid=process.pid, pid_created=created(process.pid))
    write_record(record)
    assert is_running(record)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert not is_running(record)
    assert reconcile() == ([], [record])
    assert read_records() == []
    process.communicate()


def test_reading_records_imports_no_process_library() -> None:
    code = (
        "import mlserve.launch.records, sys; print('psutil' in sys.modules, 'grpc' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"


def test_a_name_says_backend_and_model() -> None:
    model = ServedModel("tfserving", "inception_v3", Path())
    assert Serving((model,)).name == "tfserving-inception_v3"


# A command that has to wait for another one which holds the lock of the state folder.


@pytest.fixture
def lock(home: Path) -> Iterator[Path]:
    """The lock's file, held by somebody else for as long as the test runs."""
    path = paths.state_dir() / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def test_up_waits_no_longer_than_it_was_told(cli, export, lock: Path) -> None:
    export()

    up = cli("up", "--backend", "echo", "--grpc-port", "0", "--rest-port", "0", "--wait", "0.5")

    assert up.returncode == 5
    assert "another mlserve command is starting or stopping a server" in up.stderr
    assert str(lock) in up.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", [(), ("--foreground",)])
def test_up_that_waits_can_be_interrupted(
    cli, export, lock: Path, number: signal.Signals, mode: tuple[str, ...]
) -> None:
    export()
    up = cli.start("up", "--backend", "echo", "--grpc-port", "0", "--rest-port", "0", *mode)
    process = psutil.Process(up.pid)
    give_up = time.monotonic() + 30
    while str(lock) not in {file.path for file in process.open_files()}:
        assert time.monotonic() < give_up
        assert up.poll() is None

    up.send_signal(number)

    assert up.wait(40) in (130, -signal.SIGTERM)


def test_the_lock_is_waited_for_within_a_limit(lock: Path) -> None:
    with pytest.raises(Unavailable, match="has held"), state_lock(0.05):
        pass
