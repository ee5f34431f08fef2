"""A server from `up` to `down`, through the commands that a user types."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlserve import Client
from mlserve.images import tiny_png
from mlserve.launch.ready import see
from mlserve.launch.records import read_records
from mlserve.launch.running import server_of
from mlserve.testing.processes import wait_until
from tests.harness.echo import put_version, tensors_manifest

pytestmark = pytest.mark.server


def test_up_serves_ps_lists_logs_show_and_down_stops(cli, export) -> None:
    export(label="sorrel")

    up = cli.up()

    assert up.returncode == 0, up.stderr
    [server] = cli.ps()
    assert up.stdout == (
        f"m version 1 is ready  grpc 127.0.0.1:{server['grpc_port']}"
        f"  rest http://127.0.0.1:{server['rest_port']}\n"
    )
    assert "next: mlserve predict" in up.stderr
    assert (server["name"], server["status"], server["launcher"]) == ("echo-m", "ready", "embedded")
    with Client(server["grpc"], model="m") as client:
        assert client.predict(tiny_png(), timeout=20).label == "sorrel"

    logs = cli("logs")
    assert logs.returncode == 0
    assert "version 1 of m is available" in logs.stdout
    assert cli("logs", "echo-m", "--tail", "1").stdout == logs.stdout.splitlines(keepends=True)[-1]

    [gone] = read_records()
    down = cli("down")
    assert (down.returncode, down.stdout) == (0, "echo-m is stopped\n")
    assert not server_of(gone).is_running()
    assert cli.ps() == []


def test_ps_is_a_table_that_marks_random_weights(cli, export) -> None:
    export(is_random=True)
    up = cli.up()
    assert "warning: this model has random weights: its answers mean nothing" in up.stderr

    table = cli("ps").stdout

    header, row, answers, where, meaning = table.splitlines()
    [server] = cli.ps()
    assert header.split() == ["NAME", "STATUS", "VERSIONS", "UPTIME", "LAUNCHER"]
    assert row.startswith("echo-m  ready   latest    ")
    assert where.split() == [
        *("grpc", server["grpc"], "rest", server["rest"], "pid", str(server["pid"])),
    ]
    assert answers.strip() == "m version 1: echo; fp32; unknown device; certificate=none"
    assert meaning == "    random weights: its answers mean nothing"


def test_json_says_where_the_server_is(cli, export) -> None:
    base = export()

    up = json.loads(cli.up("--output", "json").stdout)

    assert up["base_path"] == str(base)
    assert up["grpc"] == f"127.0.0.1:{up['grpc_port']}"
    assert up["rest"] == f"http://127.0.0.1:{up['rest_port']}"
    assert (up["ready_versions"], up["is_ready"], up["was_running"]) == ([1], True, False)


def test_a_folder_of_ones_own_is_served_under_its_name(cli, tmp_path: Path) -> None:
    version = tmp_path / "horses" / "7"
    version.mkdir(parents=True)
    (version / "echo.json").write_text("{}")

    up = cli.up("--path", str(version.parent))

    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("horses version 7 is ready")
    assert "next: mlserve metadata" in up.stderr  # it is not known to take files


def test_a_model_of_tensors_is_ready_without_an_image_and_up_says_how_to_ask(
    cli, tmp_path: Path
) -> None:
    put_version(
        tmp_path / "words" / "1", manifest=tensors_manifest(), fail_run="not an image for me"
    )

    up = cli.up("--path", str(tmp_path / "words"))

    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("words version 1 is ready")
    assert "next: mlserve predict --input 'image=good morning'" in up.stderr
    [record] = read_records(lambda _: None)
    assert see(replace(record, is_ready=False, up_pid=None)).status == "ready"

    put_version(tmp_path / "more" / "1", manifest=tensors_manifest())
    beside = cli.up("--path", str(tmp_path / "more"))
    [name] = {server["name"] for server in cli.ps()} - {record.name}
    assert f"next: mlserve predict --input 'image=good morning' --server {name}" in beside.stderr


def test_named_versions_and_all_versions_are_waited_for(cli, export) -> None:
    for version in (1, 2, 3):
        export(version=version)

    assert cli.up("--version", "1", "--version", "3").stdout.startswith("m versions 1, 3 are ready")
    assert cli.ps()[0]["versions"] == [1, 3]
    assert cli("down").returncode == 0
    assert cli.up("--version", "all").stdout.startswith("m versions 1, 2, 3 are ready")
    assert cli.ps()[0]["all_versions"] is True


def test_up_again_with_the_same_settings_says_so(cli, export) -> None:
    export()
    first = cli.up()

    again = cli("up", "--backend", "echo")

    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "echo-m was already started" in again.stderr


def test_up_again_with_other_settings_is_refused_and_they_are_named(cli, export) -> None:
    export()
    cli.up()
    port = cli.ps()[0]["grpc_port"]
    for options, differences in (
        (["--version=1"], "--version is 1 here and the pinned or latest one there"),
        (["--grpc-port=1"], f"--grpc-port is 1 here and {port} there"),
        (["--host=::1"], "--host is ::1 here and 127.0.0.1 there"),
        (["--threads=1"], "--threads is 1 here and not given there"),
        (["--max-queue=3"], "--max-queue is 3 here and not given there"),
        (["--host=::1", "--no-page"], "--page is off here and on there; --host is ::1 here and"),
    ):
        again = cli("up", "--backend", "echo", *options)
        assert again.returncode == 2
        told = f"error: echo-m is already running with other settings: {differences}"
        assert told in again.stderr
    assert "hint: leave out what differs, or stop it first: mlserve down echo-m" in again.stderr


@pytest.mark.alone
def test_two_ups_at_once_share_one_server(cli, export) -> None:
    export(load_delay=0.5)
    command = ("up", "--backend", "echo", "--wait", "50")

    results = [up.communicate(timeout=60) for up in [cli.start(*command) for _ in range(3)]]

    assert [up.returncode for up in cli.started] == [0, 0, 0], results
    assert len({stdout for stdout, _ in results}) == 1
    assert sum("was already started" in stderr for _, stderr in results) == 2
    assert len(cli.ps()) == 1


@pytest.mark.alone
def test_a_second_server_gets_other_ports(cli, export) -> None:
    export("m")
    export("n")
    assert cli("up", "--backend", "echo", "--model", "m").returncode == 0

    second = cli("up", "--backend", "echo", "--model", "n")

    assert second.returncode == 0, second.stderr
    assert "a default port is taken: gRPC on " in second.stderr
    first, other = cli.ps()
    assert {first["grpc_port"], first["rest_port"]}.isdisjoint(
        {other["grpc_port"], other["rest_port"]}
    )
    several = cli("down")
    assert several.returncode == 2
    assert "2 servers are running: echo-m, echo-n" in several.stderr
    assert cli("down", "--all").stdout == "echo-m is stopped\necho-n is stopped\n"


@pytest.mark.alone
def test_a_default_port_that_is_taken_moves(cli, export) -> None:
    export()
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8500))
            holder.listen()
        except OSError:
            pass  # something else holds it, which is as good
        up = cli("up", "--backend", "echo")

    assert up.returncode == 0, up.stderr
    [server] = cli.ps()
    assert server["grpc_port"] != 8500
    assert f"a default port is taken: gRPC on {server['grpc_port']}" in up.stderr


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(cli, export) -> None:
    export()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        up = cli("up", "--backend", "echo", "--grpc-port", str(port))

    assert up.returncode == 2
    assert f"error: port {port} is taken by " in up.stderr
    assert f"(pid {os.getpid()})" in up.stderr
    assert cli.ps() == []


def test_logs_follow_ends_with_the_server(cli, export) -> None:
    export()
    cli.up()
    follow = cli.start("logs", "-f")

    assert cli("down").returncode == 0
    stdout, _ = follow.communicate(timeout=30)

    assert follow.returncode == 0
    assert "version 1 of m is available" in stdout
    assert "version 1 of m is unloaded" in stdout


def test_ctrl_c_in_logs_is_quiet(cli, export) -> None:
    export()
    cli.up()
    follow = cli.start("logs", "-f")
    assert follow.stdout is not None
    assert follow.stdout.readline().startswith("mlserve ")

    follow.send_signal(signal.SIGINT)
    _, stderr = follow.communicate(timeout=30)

    assert (follow.returncode, stderr) == (130, "")
    assert cli.ps()[0]["status"] == "ready"


def test_down_kills_a_server_that_does_not_end(cli, export) -> None:
    export()
    cli.up()
    pid = cli.ps()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)

    down = cli("down", "--timeout", "0.2")

    assert down.returncode == 0
    assert "echo-m did not end within 0.2 s: it was killed" in down.stderr
    assert cli.ps() == []


def test_nothing_to_stop_is_no_error(cli) -> None:
    down = cli("down")

    assert (down.returncode, down.stdout, down.stderr) == (0, "", "no server is running\n")


def test_what_is_not_running_cannot_be_stopped_by_name(cli, export) -> None:
    export()
    cli.up()

    down = cli("down", "echo-n")

    assert down.returncode == 5
    assert "no server with name 'echo-n' is running (running: echo-m)" in down.stderr


# Version 0 from `up` to `predict`, through the commands that a user types.


def test_version_0_is_served_asked_and_described(cli, export, tmp_path: Path) -> None:
    export(version=0, label="zero")
    export(version=1, label="one")
    image = tmp_path / "image.png"
    image.write_bytes(tiny_png())

    up = cli.up("--version", "0")

    assert up.stdout.startswith("m version 0 is ready"), up.stderr
    [server] = cli.ps()
    assert server["versions"] == [0]
    for protocol in ("grpc", "rest"):
        for options in ((), ("--version", "0")):
            asked = cli("predict", str(image), "--protocol", protocol, *options)
            assert (asked.stdout, asked.returncode) == ("zero\n", 0), asked.stderr
        for command in ("status", "metadata"):
            done = cli(command, "--protocol", protocol, "--version", "0", "--output", "json")
            found = json.loads(done.stdout)
            versions = [v["version"] for v in found.get("versions", [found])]
            assert versions == [0], done.stdout
    wrong = cli("predict", str(image), "--version", "1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
