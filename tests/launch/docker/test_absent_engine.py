"""The docker launcher where there is no engine: every command says so, or goes on without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server


@pytest.fixture
def no_engine(cli, tmp_path: Path) -> str:
    """The address of an engine that is not there."""
    address = f"unix://{tmp_path}/nothing.sock"
    said = f"Cannot connect to the Docker daemon at {address}. Is the docker daemon running?"
    stand_in(cli, tmp_path / "bin", f"echo '{said}' >&2\nexit 1\n")
    cli.env["DOCKER_HOST"] = address
    return address


def stand_in(cli, folder: Path, script: str) -> None:
    """Puts a `docker` that answers as another machine's engine would in front of the real one."""
    folder.mkdir()
    (folder / "docker").write_text(f"#!/bin/sh\n{script}")
    (folder / "docker").chmod(0o755)
    cli.env["PATH"] = f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize("command", [("up", "--launcher", "docker"), ("build",)])
def test_a_command_that_needs_it_names_it(cli, export, no_engine: str, command) -> None:
    export()

    done = cli(*command, "--backend", "echo")

    assert done.returncode == 3
    assert f"error: no container engine answers at {no_engine}\n" in done.stderr
    assert "systemctl start docker" in done.stderr


@pytest.mark.parametrize("command", [("up", "--launcher", "docker"), ("build",)])
def test_without_the_command_the_way_on_is_named(cli, export, command) -> None:
    export()
    cli.env["PATH"] = "/nowhere"

    done = cli(*command, "--backend", "echo")

    assert done.returncode == 3
    assert done.stderr.startswith("error: docker is not on PATH\nhint: install Docker Engine")


def test_other_launchers_do_not_mind(cli, export, no_engine: str) -> None:
    export()

    assert cli.up().returncode == 0
    assert [server["launcher"] for server in cli.ps()] == ["embedded"]
    assert cli("down").stdout == "echo-m is stopped\n"


@pytest.mark.parametrize("has_docker", [False, True])
def test_what_knows_containers_is_loaded_only_where_there_is_a_docker_command(
    cli, tmp_path: Path, *, has_docker: bool
) -> None:
    stand_in(cli, tmp_path / "bin", "exit 1\n")
    code = (
        "import sys; from mlserve.launch.running import reconcile; reconcile(); "
        "print('mlserve.launch.docker' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": str(tmp_path / "bin") if has_docker else "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == f"{has_docker}\n", done.stderr


def test_a_container_of_an_engine_that_is_away_is_kept(
    cli, export, home: Path, no_engine: str
) -> None:
    export()
    assert cli.up().returncode == 0
    [path] = (home / "state" / "servers").iterdir()
    text = path.read_text()
    record = json.loads(text) | {"container": "0123456789abcdef", "launcher": "docker"}
    path.write_text(json.dumps(record))

    assert [s["name"] for s in cli.ps()] == ["echo-m"]
    done = cli("down")
    assert done.returncode == 3
    assert f"no container engine answers at {no_engine}" in done.stderr
    assert path.exists()

    path.write_text(text)
    assert cli("down").stdout == "echo-m is stopped\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--foreground", "--launcher", "docker"), "only runs servers in the background"),
        (("--image", "x"), "--image and --docker-option are for containers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli, export, options, told: str) -> None:
    export()

    done = cli("up", *options)

    assert done.returncode == 2
    assert told in done.stderr


def test_an_architecture_without_an_image_is_named_with_the_way_on(cli, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    engine = (
        'case "$1" in\n'
        'info) echo \'{"ServerVersion": "28", "Architecture": "aarch64"}\' ;;\n'
        'image) echo "Error: No such image: $3" >&2; exit 1 ;;\n'
        "esac\n"
    )
    stand_in(cli, tmp_path / "bin", engine)

    done = cli(
        *("up", "--launcher", "docker", "--backend", "tfserving", "--path", str(tmp_path / "m"))
    )

    assert done.returncode == 3
    assert "is published for amd64 and this engine runs arm64" in done.stderr
    assert "mlserve export --backend onnxruntime" in done.stderr


def test_an_engine_that_this_user_may_not_use_is_named(cli, export, tmp_path: Path) -> None:
    export()
    said = (
        "permission denied while trying to connect to the Docker daemon socket at "
        "unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: permission denied"
    )
    stand_in(cli, tmp_path / "bin", f"echo '{said}' >&2\nexit 1\n")

    done = cli("up", "--launcher", "docker")

    assert done.returncode == 3
    assert "error: no permission to use the container engine at " in done.stderr
    assert "usermod -aG docker" in done.stderr
