"""`mlserve up --launcher docker` and what follows it, with a real engine."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve.backend import Listen
from mlserve.client import Client
from mlserve.launch.down import stop_all
from mlserve.launch.records import ServerRecord, read_records, write_record
from mlserve.launch.running import server_of
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import DOCKER
from mlserve.store import VersionPolicy
from mlserve.testing.processes import wait_until
from tests.harness.echo import manifest, put_version

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.timeout(900)]

RECORD = ServerRecord(
    name="echo-m",
    serving=Serving((ServedModel("echo", "m", Path(), VersionPolicy((1,))),)),
    launcher=DOCKER,
    listen=Listen("127.0.0.1", 0, 0),
    pid=0,
    pid_created=0.0,
    log=None,
    started="",
    is_ready=True,
)
STAND_IN = """\
FROM mlserve-echo-m:1
USER root
RUN printf '%s\\n' '#!/bin/sh' 'echo "$@"' \
    'for a in "$@"; do case $a in --model_name=*) model=${a#*=};; esac; done' \
    'exec python -m mlserve.server --backend echo --model $model \
--base-path /models/$model --host 0.0.0.0' \
    > /usr/local/bin/tensorflow_model_server && chmod +x /usr/local/bin/tensorflow_model_server
ENTRYPOINT []
"""


def inspected(cli, container: str) -> dict[str, Any]:
    return json.loads(cli.docker("inspect", container))[0]


def test_a_container_goes_its_whole_way(cli, built) -> None:
    options = ("--max-queue", "3", "--docker-option=--health-interval=1s")
    started = cli.up(*options)
    assert started.returncode == 0, started.stderr
    assert started.stdout.startswith("m version 1 is ready"), started.stdout
    [server] = cli.ps()
    assert (server["launcher"], server["status"], server["versions"]) == ("docker", "ready", [1])

    for endpoint in (server["grpc"], server["rest"]):
        with Client(endpoint, model="m") as client:
            assert client.predict(b"an image", timeout=10).label == "sorrel"
    told = inspected(cli, server["container"])
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert told["HostConfig"]["CapDrop"] == ["ALL"]
    assert told["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    assert told["Config"]["User"] == "10001:10001"
    assert told["Args"][-1] == "--max-queue=3"
    assert {b["HostIp"] for bs in told["HostConfig"]["PortBindings"].values() for b in bs} == {
        "127.0.0.1"
    }
    wait_until(
        lambda: inspected(cli, server["container"])["State"]["Health"]["Status"] == "healthy"
    )

    assert cli.up(*options).stdout == started.stdout
    other = cli.up("--max-queue", "4")
    assert other.returncode == 2
    assert "--max-queue is 4 here and 3 there" in other.stderr
    assert "version 1 of m is available" in cli("logs").stdout
    assert len(cli("logs", "--tail", "1").stdout.splitlines()) == 1

    begun = time.monotonic()
    assert cli("down").stdout == "echo-m is stopped\n"
    assert time.monotonic() - begun < 5
    assert cli.ps() == []
    after = cli("logs")
    assert "stopping: 0 requests to finish" in after.stdout
    assert after.stderr == "echo-m is not running; this is the log it left\n"


def test_a_server_is_found_again_without_its_record(cli, built, home: Path) -> None:
    assert cli.up().returncode == 0
    [server] = cli.ps()
    [record] = (home / "state" / "servers").iterdir()
    record.unlink()

    [found] = cli.ps()

    assert found == {**server, "uptime_s": found["uptime_s"], "pid": found["pid"]}
    assert record.exists()
    # As after a reboot: the engine has started it again, with another process.
    cli.docker("restart", "--time", "10", server["container"])
    wait_until(lambda: cli("predict", __file__).returncode == 0)
    assert cli.ps()[0]["status"] == "ready"
    assert cli("down").stdout == "echo-m is stopped\n"


def test_one_that_died_is_shown_once_with_the_log_it_left(cli, built) -> None:
    assert cli.up("--docker-option=--restart=no").returncode == 0
    [server] = cli.ps()
    cli.docker("kill", server["container"])

    [dead] = cli.ps()

    assert dead["status"] == "dead"
    assert cli.ps() == []
    assert "version 1 of m is available" in cli("logs", "echo-m").stdout


def test_logs_follow_until_it_ends(cli, built) -> None:
    assert cli.up().returncode == 0
    following = cli.start("logs", "--follow")
    assert following.stdout is not None
    assert any("listening" in line for line in following.stdout)

    cli("down")

    rest, _ = following.communicate(timeout=30)
    assert following.returncode == 0
    assert "stopping: 0 requests to finish" in rest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--docker-option=--memory=8m",), "hint: it ran out of memory"),
        (
            ("--docker-option=--entrypoint=/nowhere",),
            "error: the container of echo-m does not start",
        ),
        (
            ("--docker-option=--env=PYTHONHOME=/nowhere",),
            "\nthe end of its log (all of it: mlserve logs echo-m):\n",
        ),
    ],
)
def test_one_that_does_not_start_tells_why_and_leaves_nothing(
    cli, built, options: tuple[str, ...], told: str
) -> None:
    done = cli.up(*options)

    assert done.returncode == 5, done.stderr
    assert told in done.stderr
    assert cli.ps() == []


def test_a_broken_model_is_told_by_its_log(cli, built, export) -> None:
    export("broken", fail_load="the weights are damaged")

    done = cli.up("--model", "broken")

    assert done.returncode == 5, done.stderr
    assert "echo-broken stopped while it was starting (exit code 5): the weights are damaged\n" in (
        done.stderr
    )
    assert "\nhint: write another echo.json\n" in done.stderr
    cli.docker("image", "rm", "mlserve-echo-broken:1")


def test_an_interrupt_takes_the_container_along(cli, built, tmp_path: Path) -> None:
    version = put_version(tmp_path / "1", manifest=manifest(), load_delay=60)
    slow = f"--docker-option=--volume={version}:/models/m/1:ro"
    starting = cli.start("up", "--launcher", "docker", slow)
    wait_until(cli.ps)

    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=60)

    assert starting.returncode == 130, said
    assert cli.ps() == []


def test_a_port_that_is_taken_is_named(cli, built) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("up", "--launcher", "docker", "--grpc-port", str(port))

    assert done.returncode == 2
    assert f"error: port {port} is taken" in done.stderr


def test_an_image_that_is_nowhere_is_named(cli, built) -> None:
    done = cli.up("--image", "nowhere.invalid/image:1")

    assert done.returncode == 4
    assert "error: the image nowhere.invalid/image:1 is not there and cannot be pulled" in (
        done.stderr
    )


@pytest.fixture
def stand_in(cli, built, tmp_path: Path) -> str:
    """An image with a `tensorflow_model_server` of echo; the real one cannot be had."""
    folder = tmp_path / "stand-in"
    folder.mkdir()
    (folder / "Dockerfile").write_text(STAND_IN)
    cli.docker("build", "--tag", "mlserve-test-stand-in", str(folder))
    return "mlserve-test-stand-in"


def test_another_makers_image_serves_the_mounted_folder_and_follows_it(
    cli, stand_in: str, tmp_path: Path
) -> None:
    base = tmp_path / "private" / "m"
    (base / "1").mkdir(parents=True)
    (base / "1" / "echo.json").write_text("{}")
    (base / "1" / "saved_model.pb").touch()  # whose server the image is to stand for
    base.parent.chmod(0o700)

    started = cli.up("--backend", "tfserving", "--path", str(base), "--image", stand_in)

    assert started.returncode == 0, started.stderr
    [server] = cli.ps()
    assert server["image"] == stand_in
    assert "--model_base_path=/models/m" in cli("logs").stdout
    (base / "2").mkdir()
    (base / "2" / "echo.json").write_text("{}")
    url = f"{server['rest']}/v1/models/m/versions/2"
    wait_until(lambda: _is_available(url))
    assert cli("down").stdout == "tfserving-m is stopped\n"


def test_what_another_makers_server_has_no_flag_for_is_refused(cli, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)

    done = cli.up("--backend", "tfserving", "--path", str(tmp_path / "m"), "--max-queue", "3")

    assert done.returncode == 2
    assert "error: the server in the image does not take --max-queue" in done.stderr


def _is_available(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return b"AVAILABLE" in answer.read()
    except OSError:
        return False


def test_a_server_that_ignores_sigterm_finishes_its_work_first(cli, built, home: Path) -> None:
    # As tensorflow_model_server: no drain, and as the first process no reaction to SIGTERM.
    work = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('begun', flush=True); until = time.process_time() + 1\n"
        "while time.process_time() < until: pass\n"
        "print('finished', flush=True); time.sleep(600)"
    )
    labels = ("--label", "mlserve.drains=false", "--label", f"mlserve.home={home / 'state'}")
    image = ("--entrypoint", "python", "mlserve-echo-m:1", "-c", work)
    container = cli.docker("run", "--detach", *labels, *image).strip()
    record = replace(RECORD, container=container)
    write_record(record)
    wait_until(lambda: "begun" in cli.docker("logs", container))
    shown: list[str] = []
    marked: list[bool] = []

    def show(line: str) -> None:
        shown.append(line)
        marked.extend(record.is_stopping for record in read_records())

    [stopped] = stop_all([record], 15, show)

    assert not stopped.was_killed
    assert shown[0].startswith("echo-m finishes its requests, for ")
    assert all(marked)
    assert read_records() == []
    assert (home / "state" / "logs" / "echo-m.log").read_text() == "begun\nfinished\n"
    assert not server_of(record).is_running()
