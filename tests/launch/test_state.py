"""The records of servers: written whole, read with care, told apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlserve.errors import Unavailable, UsageError
from mlserve.launch.process import created, is_running, reconcile
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    select,
    server_name,
    write_record,
)

RECORD = ServerRecord(
    name="echo-m",
    backend="echo",
    model="m",
    versions=(1, 2),
    base_path=Path("/models/m"),
    launcher="embedded",
    pid=1,
    pid_created=2.5,
    host="127.0.0.1",
    grpc_port=8500,
    rest_port=8501,
    log=Path("/logs/echo-m.log"),
    started="2026-01-02T03:04:05+00:00",
    has_random_weights=False,
    is_ready=True,
)


def other(name: str, **values: object) -> ServerRecord:
    return replace(RECORD, name=name, **values)


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, log=None, threads=2)])
def test_a_record_is_read_as_it_was_written(record: ServerRecord) -> None:
    write_record(record)

    assert read_records() == [record]


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


@pytest.mark.parametrize("field", ["pid", "versions", "base_path", "grpc_port"])
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
    record = replace(RECORD, host=host)

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
    assert server_name("tfserving", "inception_v3") == "tfserving-inception_v3"
