"""What a user is told when a server does not come up, or when its process or its record is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlserve.testing.processes import wait_until
from tests.harness.echo import PHOTO

pytestmark = pytest.mark.server


def record_of(home: Path) -> Path:
    return home / "state" / "servers" / "echo-m.json"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_model_that_does_not_load_tells_the_servers_error_and_hint(
    cli, export, home: Path, log_format: str
) -> None:
    export(fail_load="the weights are of another model")

    up = cli.up("--log-format", log_format)

    assert up.returncode == 5
    error, hint, title, first, *_ = up.stderr.splitlines()
    # Its status says so, and then it ends, which is waited for: its last words say more.
    assert error.startswith("error: echo-m stopped while it was starting (exit code 5)")
    assert error.endswith(": the weights are of another model")
    assert hint == "hint: write another echo.json"
    assert title == "the end of its log (all of it: mlserve logs echo-m):"
    assert first.startswith("  mlserve ")
    assert "ERROR" in up.stderr
    assert not record_of(home).exists()
    logs = cli("logs")
    assert "the weights are of another model" in logs.stdout
    assert logs.stderr == "echo-m is not running; this is the log it left\n"


def test_the_log_of_the_run_before_is_kept(cli, export, home: Path) -> None:
    base = export(fail_load="first")
    assert cli.up().returncode == 5
    shutil.rmtree(base / "1")
    export(fail_load="second")
    assert cli.up().returncode == 5

    logs = home / "state" / "logs"

    assert "second" in (logs / "echo-m.log").read_text()
    assert "first" in (logs / "echo-m.log.1").read_text()


def test_errors_are_json_when_the_output_is(cli, export) -> None:
    export(fail_load="broken")

    up = cli.up("--output", "json")

    error = json.loads(up.stderr)["error"]
    assert (up.returncode, up.stdout) == (5, "")
    assert (error["kind"], error["exit_code"]) == ("model_load_failed", 5)
    assert error["log"]["path"].endswith("/echo-m.log")
    assert "broken" in error["log"]["end"][-2]


def test_a_server_that_is_not_ready_in_time_is_stopped(cli, export, home: Path) -> None:
    export(load_delay=60)

    up = cli("up", "--backend", "echo", "--wait", "1.5")

    assert up.returncode == 5
    assert "error: echo-m was not ready in time" in up.stderr
    assert "\nthe end of its log (all of it: mlserve logs echo-m):\n  mlserve " in up.stderr
    assert "--wait gives a slow start more time" in up.stderr
    assert not record_of(home).exists()
    assert servers_under(home) == []


def test_nothing_exported_says_what_to_type(cli) -> None:
    up = cli("up", "--backend", "echo")

    assert up.returncode == 2
    assert "error: no model has been exported for the backend 'echo'" in up.stderr
    assert "hint: export it: mlserve export --backend echo" in up.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_what_was_started(cli, export, home: Path, number) -> None:
    export(load_delay=60)
    up = cli.start("up", "--backend", "echo")
    wait_until(record_of(home).exists)

    up.send_signal(number)
    _, stderr = up.communicate(timeout=30)

    assert up.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert not record_of(home).exists()
    assert servers_under(home) == []


def test_interrupting_the_second_up_leaves_the_server_of_the_first(cli, export, home) -> None:
    export(load_delay=3)
    first = cli.start("up", "--backend", "echo")
    wait_until(record_of(home).exists)
    second = cli.start("up", "--backend", "echo")
    assert second.poll() is None

    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)

    stdout, stderr = first.communicate(timeout=60)
    assert first.returncode == 0, stderr
    assert "m version 1 is ready" in stdout


def test_up_that_was_killed_is_taken_over_by_the_next(cli, export, home: Path) -> None:
    export(load_delay=1)
    first = cli.start("up", "--backend", "echo")
    wait_until(record_of(home).exists)
    first.kill()
    first.communicate()

    [starting] = cli.ps()
    second = cli("up", "--backend", "echo")

    assert second.returncode == 0, second.stderr
    [server] = cli.ps()
    assert (server["pid"], server["status"]) == (starting["pid"], "ready")


def test_a_killed_server_is_shown_dead_once_and_started_again(cli, export) -> None:
    export()
    cli.up()
    [server] = cli.ps()
    os.kill(server["pid"], signal.SIGKILL)

    table = cli("ps")

    assert "  dead  " in table.stdout
    assert f"echo-m (pid {server['pid']}) is gone" in table.stderr
    assert cli.ps() == []
    assert cli.up().returncode == 0
    assert cli.ps()[0]["pid"] != server["pid"]


def test_up_after_kill_9_needs_no_ps_between(cli, export) -> None:
    export()
    cli.up()
    pid = cli.ps()[0]["pid"]
    os.kill(pid, signal.SIGKILL)

    again = cli.up()

    assert again.returncode == 0, again.stderr
    assert "was already started" not in again.stderr


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["reused", "dead"])
def test_a_record_from_before_a_reboot_is_dropped(cli, export, home: Path, pid: int) -> None:
    export()
    cli.up()
    record = json.loads(record_of(home).read_text())
    assert cli("down").returncode == 0
    record_of(home).write_text(json.dumps({**record, "pid": pid}))

    down = cli("down")

    assert (down.returncode, down.stderr) == (0, "no server is running\n")
    assert not record_of(home).exists()
    record_of(home).write_text(json.dumps({**record, "pid": pid}))
    assert cli.up().returncode == 0


def test_a_record_that_cannot_be_read_is_named_and_hurts_nobody(cli, export, home: Path) -> None:
    export()
    cli.up()
    broken = record_of(home).with_name("echo-x.json")
    broken.write_text('{"format": 1, "na')

    ps = cli("ps")

    assert ps.returncode == 0
    assert "echo-m" in ps.stdout
    assert f"warning: the server record {broken} cannot be read (JSONDecodeError: " in ps.stderr
    assert cli("down").returncode == 0
    assert broken.exists()


def test_a_state_folder_that_cannot_be_written_is_named(cli, export, home: Path) -> None:
    export()
    (home / "state").write_text("not a folder")

    up = cli("up", "--backend", "echo")

    assert up.returncode == 2
    assert f"error: {home / 'state'} cannot be written: File exists" in up.stderr
    assert "MLSERVE_HOME puts mlserve's files elsewhere" in up.stderr
    assert servers_under(home) == []


def test_a_full_disk_is_told_before_a_server_is_left_behind(cli, export, home: Path) -> None:
    export()
    (home / "state" / "logs").mkdir(parents=True)
    # A disk without room, without a disk: no file of the command may have a byte.
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    limited += "from mlserve.cli.app import main; main()"

    up = subprocess.run(
        [sys.executable, "-c", limited, "up", "--backend", "echo"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert up.returncode == 2, up.stderr
    assert "cannot be written: File too large" in up.stderr
    assert servers_under(home) == []


def test_a_missing_runtime_is_told_before_anything_starts(cli, export, home: Path) -> None:
    export()
    # An interpreter in which numpy is not installed, as far as anyone can see.
    hide = "import sys, importlib.util as u; find = u.find_spec; "
    hide += "u.find_spec = lambda name, *rest: None if name == 'numpy' else find(name, *rest); "
    hide += "from mlserve.cli.app import main; main()"

    up = subprocess.run(
        [sys.executable, "-c", hide, "up", "--backend", "echo"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert up.returncode == 3
    assert "error: the backend 'echo' cannot serve: numpy not installed" in up.stderr
    assert "hint: pip install -e tests/echo" in up.stderr
    assert not (home / "state").exists()


def test_predict_ends_when_its_server_is_killed_in_the_middle(cli, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    (tmp_path / "m" / "1").mkdir(parents=True)
    config = json.dumps({"delay": 3, "journal": str(journal)})
    (tmp_path / "m" / "1" / "echo.json").write_text(config)
    image = tmp_path / "horse.jpg"
    image.write_bytes(PHOTO)
    assert cli.up("--path", str(tmp_path / "m")).returncode == 0
    runs, pid = len(journal.read_text().splitlines()), cli.ps()[0]["pid"]
    predict = cli.start("predict", str(image), "--timeout", "15")
    wait_until(lambda: len(journal.read_text().splitlines()) > runs)

    os.kill(pid, signal.SIGKILL)
    _, stderr = predict.communicate(timeout=30)

    assert predict.returncode == 5, stderr
    assert "Traceback" not in stderr


def servers_under(home: Path) -> list[int]:
    """The server processes that serve a model of this home."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if str(home) in " ".join(process.info["cmdline"] or ())
        and "mlserve.server" in (process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


# A server whose `mlserve up` was killed before it was ready: `ps` says what is, not what was.


def orphan(cli: Any) -> dict[str, Any]:
    """What `ps` says of a server that is starting, once its `up` has been killed."""
    up = cli.start("up", "--backend", "echo", "--grpc-port", "0", "--rest-port", "0")
    wait_until(lambda: [entry["status"] for entry in cli.ps()] == ["starting"])
    assert cli.ps()[0]["why"] is None
    up.kill()
    up.wait()
    (entry,) = cli.ps()
    return dict(entry)


def test_ps_finds_out_that_a_server_got_ready_without_its_up(
    cli: Any, export: Any, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    export(load_delay=60, released=str(released))
    entry = orphan(cli)
    assert "the `mlserve up` that started it is gone; now " in entry["why"]
    released.touch()
    wait_until(lambda: cli.ps()[0]["status"] == "ready")
    (entry,) = cli.ps()
    assert (entry["is_ready"], entry["why"]) == (True, None)


def test_ps_says_of_a_server_that_stands_still_that_it_does_not_answer(
    cli: Any, export: Any
) -> None:
    export(load_delay=60)
    pid = orphan(cli)["pid"]
    os.kill(pid, signal.SIGSTOP)
    (entry,) = cli.ps()
    assert entry["status"] == "not answering"
    table = cli("ps")
    assert "not answering" in table.stdout
    assert "echo-m is not answering: the `mlserve up` that started it is gone" in table.stderr
