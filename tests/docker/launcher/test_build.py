"""`mlserve build`: images by a real engine, of a checkout that is on no package index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlserve.launch.docker.dockerfile import HEALTHCHECK

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.timeout(900)]

TAG = "mlserve-echo-m:1"
NETWORK = "--build-option=--network=host"


def test_an_image_holds_the_model_and_says_what_it_is(cli, built: Path) -> None:
    told = json.loads(cli.docker("image", "inspect", TAG))[0]
    printed = json.loads((built / "told.json").read_text())

    assert (printed["id"], printed["tag"]) == (told["Id"], TAG)
    labels = told["Config"]["Labels"]
    assert labels["mlserve.backend"] == "echo"
    assert labels["mlserve.model"] == "m"
    assert labels["mlserve.version"] == "1"
    assert labels["mlserve.digest"].startswith("sha256:")
    assert labels["org.opencontainers.image.title"] == "m served by echo"
    assert told["Config"]["User"] == "10001:10001"
    assert told["Config"]["Healthcheck"]


def test_what_is_built_can_be_written_and_built_by_hand(cli, built: Path) -> None:
    folder = built / "image"

    wheels = {path.name.partition("-")[0] for path in (folder / "install/wheels").glob("*.whl")}
    assert wheels == {"mlserve", "mlserve_echo"}
    assert (folder / "model" / "mlserve.json").is_file()
    assert (folder / "install" / "healthcheck.py").read_text() == HEALTHCHECK.read_text()
    assert "mlserve==" not in (folder / "install/constraints.txt").read_text()
    assert "numpy==" in (folder / "install/constraints.txt").read_text()
    # The layers are the ones that `mlserve build` made: nothing is installed again.
    said = cli.docker("build", "--network=host", "--tag", "mlserve-test-by-hand", str(folder))
    assert "Successfully" in said or said == ""
    cli.docker("image", "rm", "mlserve-test-by-hand")
    again = cli("build", "--backend", "echo", "--file-only", str(folder))
    assert again.returncode == 2
    assert f"error: {folder} is not empty" in again.stderr


def test_the_image_of_another_makers_server_holds_the_model_and_its_flags(
    cli, tmp_path: Path, export, home: Path
) -> None:
    export()
    (home / "data/models/echo").rename(home / "data/models/tfserving")
    folder = tmp_path / "image"

    written = cli("build", "--file-only", str(folder), "--base-image", "stand-in:1")

    assert written.returncode == 0, written.stderr
    text = (folder / "Dockerfile").read_text()
    assert "ARG BASE_IMAGE=stand-in:1\n" in text
    assert "COPY model /models/m/1/\n" in text
    assert '"tensorflow_model_server", "--port=8500", "--rest_api_port=8501"' in text
    assert not (folder / "install").exists()


def test_a_base_image_that_is_nowhere_is_named(cli, built: Path) -> None:
    done = cli("build", "--backend", "echo", "--base-image", "scratch-that-is-nowhere:1")

    assert done.returncode == 4
    assert "error: the image scratch-that-is-nowhere:1 is not there and cannot be pulled" in (
        done.stderr
    )


def test_a_build_that_fails_shows_the_whole_log(cli, built: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    shutil.copytree(built / "image" / "install" / "wheels", wheels)
    for wheel in wheels.glob("mlserve_echo-*.whl"):
        wheel.rename(wheel.with_name(wheel.name.replace("-py3-none-any", "-py2-none-any")))

    failed = cli("build", "--backend", "echo", "--tag", "x", "--wheel-dir", str(wheels), NETWORK)

    assert failed.returncode == 4
    assert "Step 1/" in failed.stderr or "[1/" in failed.stderr
    assert "error: the image x could not be built; the end of the log:\n" in failed.stderr
    assert "is not a supported wheel on this platform" in failed.stderr


def test_a_model_that_was_not_exported_is_named(cli) -> None:
    done = cli("build", "--backend", "echo", "--model", "x")

    assert done.returncode == 2
    assert "no model 'x' has been exported for the backend 'echo'" in done.stderr


def test_an_image_of_the_files_alone_can_stand_on_another(cli, built: Path) -> None:
    base = ("--base-image", "mlserve-echo-m:1", "--tag", "mlserve-test-car:1")
    done = cli("build", "--backend", "echo", "--artifact-only", *base)
    assert done.returncode == 0, done.stderr
    listed = cli.docker("run", "--rm", "--entrypoint", "ls", "mlserve-test-car:1", "/models/m/1")
    assert "mlserve.json" in listed.split()
    labels = json.loads(cli.docker("image", "inspect", "mlserve-test-car:1"))[0]["Config"]["Labels"]
    assert labels["org.opencontainers.image.base.name"] == "mlserve-echo-m:1"
    cli.docker("image", "rm", "mlserve-test-car:1")
