"""An image of the echo backend, built once by `mlserve build`, and the command line beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NETWORK = "--build-option=--network=host"
"""A private engine without iptables has no other network for the steps of a build."""
FREE_PORTS = ("--grpc-port", "0", "--rest-port", "0")


class Cli:
    """Runs `mlserve` as a process, and `docker`."""

    def __init__(self) -> None:
        self.env: dict[str, str] = {}

    def __call__(self, *args: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlserve", *args],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def up(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`mlserve up --launcher docker` at free ports."""
        return self("up", "--launcher", "docker", *FREE_PORTS, "--wait", "60", *args)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The running command, with both outputs as pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "mlserve", *args],
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ps(self) -> list[dict[str, Any]]:
        """What `mlserve ps` lists."""
        done = self("ps", "--output", "json")
        assert done.returncode == 0, done.stderr
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    @staticmethod
    def docker(*args: str) -> str:
        """What `docker ARGS` prints."""
        done = subprocess.run(
            ["docker", *args], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def cli(engine: Any, home: Path) -> Iterator[Cli]:
    """The command line; the containers of this test's home are gone after it."""
    command = Cli()
    yield command
    label = f"label=mlserve.home={home / 'state'}"
    ids = command.docker("ps", "--all", "--quiet", "--filter", label).split()
    if ids:
        command.docker("rm", "--force", "--volumes", *ids)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs an image keeps what it is made of."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def built(cli: Cli, home: Path, export: Callable[..., Path], template: Path) -> Path:
    """The model `m` of the echo backend, exported here, and its image: built once.

    The folder holds `image`, all that it was built of, and `told.json`, what the command printed.
    """
    if (template / "told.json").exists():
        shutil.copytree(template / "data", home / "data")
        return template
    export()
    shutil.copytree(home / "data", template / "data")
    written = cli("build", "--backend", "echo", "--file-only", str(template / "image"))
    assert written.returncode == 0, written.stderr
    wheels = ("--wheel-dir", str(template / "image" / "install" / "wheels"))
    done = cli("build", "--backend", "echo", "--output", "json", *wheels, NETWORK)
    assert done.returncode == 0, done.stderr
    (template / "told.json").write_text(done.stdout)
    return template
