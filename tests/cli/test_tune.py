"""`mlserve tune` as a user runs it, and what `mlserve up` makes of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from mlserve import paths
from mlserve.cli.app import app
from mlserve.errors import ExitCode
from mlserve.load_options import LoadOptions
from mlserve.model_choice import choose
from mlserve.store import VersionPolicy
from mlserve.testing.processes import wait_until
from mlserve.tune.machine import Machine
from mlserve.tune.records import Tuning, digest_of, keep, tunings

pytestmark = pytest.mark.server

Export = Callable[..., Path]


def _keep(**options: object) -> Tuning:
    """Keep a tuning of the exported model, as if its winner had these options."""
    served = choose("echo", "m", None, VersionPolicy())
    tuning = Tuning(
        backend="echo",
        model="m",
        base_path=served.base_path,
        version=1,
        digest=digest_of(served),
        machine=Machine.here(),
        made="2026-01-02T03:04:05+00:00",
        options=LoadOptions.from_json(options),
        gain="20% more answers/s",
    )
    keep(tuning)
    return tuning


def _servers() -> list[psutil.Process]:
    """The servers of the models of this test's home that its commands have started."""
    store, servers = str(paths.store_dir()), []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # also of a process that has just ended
            if any(word.startswith(store) for word in each.cmdline()):
                servers.append(each)
    return servers


def test_a_model_is_tuned_and_the_winner_kept(cli: Any, export: Export) -> None:
    """The question is made up: an image that the echo model answers after 2 ms."""
    export(delay=0.002)

    found = cli.json("tune", "--budget", "1", "--threads", "1", "--processes", "1")

    [kept] = tunings()
    assert found["tuning"] == kept.to_json()
    assert kept.options == LoadOptions(threads=1, processes=1), "there is no other option to tune"
    [only] = found["candidates"]
    assert only["is_winner"]
    assert only["options"] == {"threads": 1, "processes": 1}
    [sample] = only["samples"]
    assert sample["one_client"]["answers_per_second"] > 0
    assert sample["one_client"]["p50_ms"] >= 2
    assert sample["many_clients"]["p99_ms"] >= sample["many_clients"]["p50_ms"] >= 2
    assert sample["memory_bytes"] > 2**20
    assert _servers() == []
    assert cli.ps() == []


def test_up_uses_what_was_tuned_until_it_is_forgotten(cli: Any, export: Export) -> None:
    export()
    _keep(threads=1)

    up = cli.up()
    [server] = cli.ps()
    again = cli.up()
    shown = CliRunner().invoke(app, ["tune", "--show"])
    gone = CliRunner().invoke(app, ["tune", "--forget", "--model", "m"])

    assert "tuned on 2026-01-02: --threads=1 (mlserve tune)" in up.stderr
    assert server["threads"] == 1
    assert "echo-m was already started" in again.stderr
    assert "20% more answers/s" in shown.stdout
    assert gone.stdout == "m (echo, version 1): --threads=1\n"
    assert tunings() == []


def test_a_server_that_runs_beside_is_warned_of(cli: Any, export: Export) -> None:
    export(delay=0.002)
    cli.up()
    done = cli("tune", "--budget", "1", "--threads", "1", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert "warning: echo-m runs on this machine too" in " ".join(done.stderr.split())


def test_a_default_that_nothing_was_compared_with_replaces_nothing(
    cli: Any, export: Export
) -> None:
    """A trial takes longer than the budget, so there is no second one."""
    export(delay=0.1)
    before = _keep(threads=1)
    done = cli("tune", "--budget", "1")
    assert done.returncode == 0, done.stderr
    assert "nothing is kept, as nothing was compared" in done.stderr
    assert "measure longer (--budget)" in " ".join(done.stderr.split())
    assert "winner: nothing else was tried" in " ".join(done.stdout.split())
    assert tunings() == [before]


def test_ctrl_c_leaves_what_was_there_and_no_server(cli: Any, export: Export, photo: Path) -> None:
    export()
    before = _keep(threads=1)

    tune = cli.start("tune", photo, "--threads", "2")
    wait_until(_servers)
    tune.send_signal(signal.SIGINT)
    stdout, stderr = tune.communicate(timeout=60)

    assert tune.returncode == ExitCode.INTERRUPTED
    assert stdout == ""
    assert "interrupted: nothing is kept, and what was kept before stays\n" in stderr
    assert tunings() == [before]
    assert _servers() == []


def test_ctrl_c_shows_what_was_measured(cli: Any, export: Export) -> None:
    export()
    before = _keep(threads=1)

    tune = cli.start("tune", "--budget", "300", "--output", "json")
    [first] = wait_until(_servers)
    wait_until(lambda: any(each != first for each in _servers()))
    tune.send_signal(signal.SIGINT)
    stdout, stderr = tune.communicate(timeout=60)

    assert tune.returncode == ExitCode.INTERRUPTED, stderr
    assert "interrupted: nothing is kept, and what was kept before stays\n" in stderr
    found = json.loads(stdout)
    default, *_, last = found["candidates"]
    assert (found["is_interrupted"], found["is_kept"]) == (True, False)
    assert (default["result"], len(default["samples"])) == ("default", 1)
    assert (last["result"], last["samples"]) == ("not tried: interrupted", [])
    assert not any(each["is_winner"] for each in found["candidates"])
    assert tunings() == [before]
    assert _servers() == []


def test_wrong_calls_say_what_is_wrong(export: Export, photo: Path) -> None:
    export()
    export(version=2)

    for arguments, said in (
        (("--show", "--forget"), "--show and --forget are two commands"),
        (("--show", photo), "--show and --forget measure nothing"),
        (("--forget", "--threads", "2"), "--show and --forget measure nothing"),
        (("--forget", "--version", "2"), "--show and --forget measure nothing"),
        (("--version", "all"), "2 versions are given, and one is measured"),
        (("--instances", "2"), "the backend 'echo' has no --instances"),
    ):
        done = CliRunner().invoke(app, ["tune", *map(str, arguments)])
        assert done.exit_code == ExitCode.USAGE
        assert said in done.stderr
