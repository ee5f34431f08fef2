"""`--launcher native` with a stand-in for tensorflow_model_server: a process of that name on PATH.

The stand-in hands the flags that it is given on to mlserve's own server with the echo backend; the
flags themselves are compared with TensorFlow Serving's public ones by the plugin's tests.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlserve import plugins
from mlserve.backend import Listen
from mlserve.launch.launchers import launcher_for
from mlserve.load_options import LoadOptions
from mlserve.pin import write_pin
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import AUTO, EMBEDDED, NATIVE
from mlserve.testing.processes import wait_until
from tests.harness.echo import LABELS, manifest

pytestmark = pytest.mark.server

NAME = "tensorflow_model_server"
STAND_IN = """#!{python}
import json, os, subprocess, sys
flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
with open({seen!r}, "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
if os.environ.get("LOSE_A_PORT") and not os.path.exists({lost!r}):
    holder = subprocess.Popen([
        sys.executable, "-c",
        "import socket, sys; s = socket.create_server(('127.0.0.1', " + flags["port"] + ")); "
        "print(flush=True); sys.stdin.read()",
    ], stdin=open({held!r}), stdout=subprocess.PIPE, start_new_session=True)
    holder.stdout.readline()
    open({lost!r}, "w").write(flags["port"])
    sys.exit("cannot listen: address already in use")
if "model_config_file" in flags:
    config = open(flags["model_config_file"]).read()
    quoted = config.split('"')
    flags["model_name"], flags["model_base_path"] = quoted[1], quoted[3]
    versions = [line.split()[1] for line in config.splitlines() if "versions:" in line]
    versions = ["--version", *versions]
else:
    versions = []
# As the real one, it dies of SIGTERM with its requests unanswered.
deaf = (
    "import asyncio.unix_events as events, runpy; "
    "events._UnixSelectorEventLoop.add_signal_handler = lambda *_: None; "
    "runpy.run_module('mlserve.server', run_name='__main__', alter_sys=True)"
)
os.execv(sys.executable, [
    sys.executable, "-c", deaf, "--backend", "echo",
    "--model", flags["model_name"], "--base-path", flags["model_base_path"],
    "--grpc-port", flags["port"], "--rest-port", flags["rest_api_port"], *versions,
])
"""


@pytest.fixture
def seen(tmp_path: Path, cli) -> Path:
    """The arguments and environment that the stand-in was started with, once it was."""
    seen, folder = tmp_path / "seen.json", tmp_path / "bin"
    folder.mkdir()
    executable = folder / NAME
    executable.write_text(
        STAND_IN.format(
            python=sys.executable,
            seen=str(seen),
            lost=str(tmp_path / "lost"),
            held=str(tmp_path / "held"),
        )
    )
    executable.chmod(0o755)
    cli.env["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return seen


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for version in ("1", "2"):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "echo.json").write_text("{}")
        (tmp_path / "m" / version / "saved_model.pb").touch()  # for the backend tfserving, too
    return tmp_path / "m"


def up(cli, base: Path, *args: str):
    options = ("--path", str(base), "--grpc-port", "0", "--rest-port", "0", "--wait", "40")
    return cli("up", "--backend", "tfserving", *options, *args)


def test_auto_takes_it_when_it_is_on_path(cli, base: Path, seen: Path) -> None:
    started = up(cli, base)

    assert started.returncode == 0, started.stderr
    assert started.stderr.startswith(
        "warning: tensorflow_model_server listens on every address of this machine, not only on "
        "127.0.0.1; --launcher embedded does not\n"
    )
    [server] = cli.ps()
    assert (server["launcher"], server["status"]) == ("native", "ready")
    listen = Listen("127.0.0.1", server["grpc_port"], server["rest_port"])
    spec, _ = plugins.backend("tfserving").external_servers(base, "m", (), listen)
    argv, environment = json.loads(seen.read_text())
    assert argv == list(spec.argv)
    assert f"--port={listen.grpc_port}" in argv
    assert f"--model_base_path={base}" in argv
    assert environment == {**environment, **spec.env}
    assert cli("down").stdout == "tfserving-m is stopped\n"


@pytest.mark.parametrize("named", [("--version", "1"), ()])
def test_named_and_pinned_versions_go_into_its_configuration_file(
    cli, base: Path, seen: Path, home: Path, named: tuple[str, ...]
) -> None:
    write_pin(base, 2 if named else 1)
    started = up(cli, base, "--launcher", "native", *named)

    assert started.stdout.startswith("m version 1 is ready"), started.stderr
    argv, _ = json.loads(seen.read_text())
    folder = home / "state" / "files" / "tfserving-m"
    assert f"--model_config_file={folder}/models.config" in argv
    assert "versions: 1\n" in (folder / "models.config").read_text()
    assert named or "this server serves it until it is started again" in started.stderr


def test_a_damaged_version_is_refused_before_it_starts(cli, base: Path, seen: Path) -> None:
    replace(manifest(), backend="tfserving").write(base / "2", LABELS)
    (base / "2" / "saved_model.pb").write_text("other")

    started = up(cli, base, "--launcher", "native")

    assert started.returncode == 5
    assert f"error: {base}/2/saved_model.pb has 5 bytes instead of 0\n" in started.stderr
    assert not seen.exists()


def test_it_cannot_follow_all_versions(cli, base: Path, seen: Path) -> None:
    started = up(cli, base, "--launcher", "native", "--version", "all")

    assert started.returncode == 2
    assert "error: the native launcher cannot follow all versions" in started.stderr
    assert not seen.exists()


def test_a_load_option_is_not_dropped_but_takes_the_embedded_server(
    cli, base: Path, seen: Path
) -> None:
    refused = up(cli, base, "--launcher", "native", "--threads", "2")

    assert refused.returncode == 2
    assert "error: the native launcher does not take --threads\n" in refused.stderr
    serving = Serving((ServedModel("tfserving", "m", base, options=LoadOptions(threads=2)),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", cli.env["PATH"])
        chosen = launcher_for([plugins.backend("tfserving")], serving, AUTO)
        plain = launcher_for(
            [plugins.backend("tfserving")],
            Serving((ServedModel("tfserving", "m", base),)),
            AUTO,
        )
    assert (chosen, plain) == (EMBEDDED, NATIVE)
    assert not seen.exists()


def test_it_is_named_when_it_is_not_on_path(cli, base: Path, tmp_path: Path) -> None:
    cli.env["PATH"] = str(tmp_path)

    started = up(cli, base, "--launcher", "native")

    assert started.returncode == 3
    assert started.stderr.startswith("error: tensorflow_model_server is not on PATH\nhint: ")


def test_a_backend_without_one_says_so(cli, export) -> None:
    export()

    started = cli("up", "--backend", "echo", "--launcher", "native")

    assert started.returncode == 2
    assert "the backend 'echo' has no third-party server" in started.stderr


def test_one_that_cannot_be_run_is_named(cli, base: Path, seen: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / NAME).write_bytes(b"\x7fELF of another machine")

    started = up(cli, base, "--launcher", "native")

    assert started.returncode == 3
    assert f"error: {tmp_path / 'bin' / NAME} cannot be run: Exec format error" in started.stderr
    assert cli.ps() == []


def test_a_default_port_that_is_lost_while_it_starts_moves(
    cli, base: Path, seen: Path, tmp_path: Path
) -> None:
    cli.env["LOSE_A_PORT"] = "1"
    # The process that takes the port holds it until this pipe is closed.
    os.mkfifo(tmp_path / "held")
    pipe = os.open(tmp_path / "held", os.O_RDWR)
    try:
        started = cli("up", "--backend", "tfserving", "--path", str(base), "--wait", "40")
    finally:
        os.close(pipe)

    assert started.returncode == 0, started.stderr
    assert "another process took a port of tfserving-m: starting it again" in started.stderr
    assert cli.ps()[0]["grpc_port"] != int((tmp_path / "lost").read_text())


def test_whoever_waits_for_a_server_that_loses_its_port_moves_along(
    cli, base: Path, seen: Path, tmp_path: Path
) -> None:
    cli.env["LOSE_A_PORT"] = "1"
    os.mkfifo(tmp_path / "held")
    pipe = os.open(tmp_path / "held", os.O_RDWR)
    command = ("up", "--backend", "tfserving", "--path", str(base), "--wait", "40")
    try:
        results = [up.communicate(timeout=60) for up in [cli.start(*command) for _ in range(3)]]
    finally:
        os.close(pipe)

    assert [up.returncode for up in cli.started] == [0, 0, 0], results
    assert len({stdout for stdout, _ in results}) == 1
    assert len(cli.ps()) == 1


def test_down_waits_for_the_requests_that_it_has_begun(
    cli, base: Path, seen: Path, tmp_path: Path
) -> None:
    """It takes no new ones meanwhile, and then it is told to end: it does not drain by itself.

    The server stands still for a while: what keeps `down` waiting is the client, not the CPU.
    """
    journal, photo = tmp_path / "journal", tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff a photo")
    config = {"delay": 3, "journal": str(journal), "label": "answered"}
    (base / "2" / "echo.json").write_text(json.dumps(config))
    assert up(cli, base).returncode == 0
    warm_up, pid = journal.read_text(), cli.ps()[0]["pid"]

    asking = cli.start("predict", str(photo), "--timeout", "60")
    wait_until(lambda: journal.read_text() != warm_up)
    os.kill(pid, signal.SIGSTOP)
    stopping = cli.start("down", "--timeout", "60")
    wait_until(lambda: cli.ps()[0]["status"] == "stopping")
    refused = cli("predict", str(photo))
    again = up(cli, base)
    os.kill(pid, signal.SIGCONT)

    assert (refused.returncode, again.returncode) == (5, 5)
    assert refused.stderr.startswith("error: tfserving-m is stopping: it takes no new work\nhint: ")
    assert again.stderr.splitlines()[-2:] == refused.stderr.splitlines()
    assert asking.communicate(timeout=60) == ("answered\n", "")
    assert stopping.communicate(timeout=60) == ("tfserving-m is stopped\n", "")
    assert (asking.returncode, stopping.returncode) == (0, 0)


def test_a_client_that_stays_holds_it_up_for_the_grace_period_only(
    cli, base: Path, seen: Path
) -> None:
    assert up(cli, base).returncode == 0
    address = "127.0.0.1", cli.ps()[0]["rest_port"]

    with socket.create_connection(address):
        stopped = cli("down", "--timeout", "0.5")

    assert (stopped.returncode, stopped.stdout) == (0, "tfserving-m is stopped\n")
    assert "tfserving-m did not end within 0.5 s: it was killed" in stopped.stderr
    assert cli.ps() == []


def test_down_that_is_interrupted_leaves_it_serving_and_time_ends_it(
    cli, base: Path, seen: Path, tmp_path: Path
) -> None:
    journal, photo = tmp_path / "journal", tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff a photo")
    config = {"delay": 20, "journal": str(journal)}
    (base / "2" / "echo.json").write_text(json.dumps(config))
    assert up(cli, base).returncode == 0
    warm_up, pid = journal.read_text(), cli.ps()[0]["pid"]
    asking = cli.start("predict", str(photo), "--timeout", "60")
    wait_until(lambda: journal.read_text() != warm_up)
    os.kill(pid, signal.SIGSTOP)  # the request stays in flight, however slow this machine is

    stopping = cli.start("down", "--timeout", "60")
    wait_until(lambda: cli.ps()[0]["status"] == "stopping")
    stopping.send_signal(signal.SIGINT)

    assert stopping.wait(60) == 130
    assert cli.ps()[0]["status"] == "ready"
    assert cli("down", "--timeout", "0.5").stdout == "tfserving-m is stopped\n"
    assert asking.wait(60) == 5


def test_its_last_error_is_ours_when_it_dies_at_the_start(
    cli, base: Path, tmp_path: Path, seen: Path
) -> None:
    said = "2026-01-02 03:04:05.678901: E tensorflow_serving/util/retrier.cc:37] Loading m failed"
    stand_in = tmp_path / "bin" / NAME
    stand_in.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")

    started = up(cli, base, "--launcher", "native")

    assert started.returncode == 5
    *_, error, title, _, last = started.stderr.splitlines()
    assert error == (
        "error: tfserving-m stopped while it was starting (exit code 1): Loading m failed"
    )
    assert title == "the end of its log (all of it: mlserve logs tfserving-m):"
    assert last == f"  {said}"


def test_it_has_no_page_to_open(cli, base: Path, seen: Path) -> None:
    refused = up(cli, base, "--open")
    assert refused.returncode == 2
    assert "--open opens the page of mlserve's own server" in refused.stderr
    assert "use --launcher embedded" in refused.stderr
    assert not seen.exists()
