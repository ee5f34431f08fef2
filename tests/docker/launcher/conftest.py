"""An image of the echo backend, built once by `mlserve build`, and the command line beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import FREE_PORTS, Command, Outcome
from tests.harness.engine import Engine

NETWORK = "--build-option=--network=host"
"""A private engine without iptables has no other network for the steps of a build."""


class DockerCommand(Command):
    """Runs `mlserve` with the docker launcher, and `docker`."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__(folder)
        self.docker = partial(engine, timeout=200)

    def __call__(self, *args: object, timeout: float = 200, **options: Any) -> Outcome:
        return super().__call__(*args, timeout=timeout, **options)

    def up(self, *args: object) -> Outcome:
        """`mlserve up --launcher docker` at free ports."""
        return self("up", "--launcher", "docker", *FREE_PORTS, "--wait", "60", *args)


@pytest.fixture
def cli(engine: Engine, home: Path, tmp_path: Path) -> Iterator[DockerCommand]:
    """The command line; the containers of this test's home are gone after it."""
    command = DockerCommand(tmp_path, engine)
    yield command
    label = f"label=mlserve.home={home / 'state'}"
    ids = engine("ps", "--all", "--quiet", "--filter", label).split()
    if ids:
        engine("rm", "--force", "--volumes", *ids)
    command.end()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs an image keeps what it is made of."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def built(cli: DockerCommand, home: Path, export: Callable[..., Path], template: Path) -> Path:
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
    done = cli("build", "--backend", "echo", "--output", "json", *wheels, NETWORK, timeout=540)
    assert done.returncode == 0, done.stderr
    (template / "told.json").write_text(done.stdout)
    return template
