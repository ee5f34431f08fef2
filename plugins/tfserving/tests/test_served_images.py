"""Good, odd and bad image files through a real server, both protocols, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlserve import Client
from mlserve.artifact import Artifact
from mlserve.errors import InputTooLarge, InvalidInput, NotAnImage

pytestmark = pytest.mark.slow

# gRPC has one code for all three; HTTP tells them apart.
KINDS = {
    "invalid_input": {"grpc": InvalidInput, "rest": InvalidInput},
    "not_an_image": {"grpc": InvalidInput, "rest": NotAnImage},
    "input_too_large": {"grpc": InvalidInput, "rest": InputTooLarge},
}


def mlserve(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlserve", *args],
        env={**os.environ, "MLSERVE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(artifact: Artifact, home: Path) -> Iterator[dict[str, Any]]:
    """The running server of the colour classifier, as `mlserve ps` describes it."""
    flags = ("--launcher", "embedded", "--grpc-port", "0", "--rest-port", "0", "--wait", "150")
    up = mlserve(home, "up", "--path", str(artifact.path.parent), "--model", "colours", *flags)
    assert up.returncode == 0, up.stderr
    yield json.loads(mlserve(home, "ps", "--output", "json").stdout)[0]
    down = mlserve(home, "down")
    assert down.returncode == 0, down.stderr


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(server: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Client]:
    port = server[f"{request.param}_port"]
    endpoint = f"{server['host']}:{port}"
    with Client(endpoint, protocol=request.param, model="colours") as client:
        yield client


def test_an_odd_image_gets_its_answer(client: Client, odd_image: tuple[bytes, str]) -> None:
    data, label = odd_image
    assert client.predict(data, timeout=30).label == label


def test_a_bad_image_gets_its_error_and_the_server_lives_on(
    client: Client, images: Any, bad_image: tuple[bytes, str, str]
) -> None:
    data, kind, part = bad_image
    with pytest.raises(InvalidInput) as refused:
        client.predict(data, timeout=30)
    assert type(refused.value) is KINDS[kind][client.endpoint.protocol]
    assert part in refused.value.message
    assert refused.value.hint
    assert client.predict(images.plain("blue"), timeout=30).label == "blue"


def test_the_good_files_of_a_call_are_answered_and_the_bad_ones_named(
    server: dict[str, Any], home: Path, images: Any, tmp_path: Path
) -> None:
    files = {
        "1.jpg": images.plain("red"),
        "2.jpg": images.plain("red")[:-20],
        "3.png": images.plain("green", "PNG"),
        "4.png": b"",
        "5.jpg": images.jpeg_header(20000, 20000),
        "6.jpg": images.plain("blue"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    done = mlserve(home, "predict", str(tmp_path), "--timeout", "30")

    assert done.returncode == 2
    answers = dict(line.split("\t") for line in done.stdout.splitlines())
    assert {Path(name).name: label for name, label in answers.items()} == {
        "1.jpg": "red",
        "3.png": "green",
        "6.jpg": "blue",
    }
    assert all(name in done.stderr for name in ("2.jpg", "4.png", "5.jpg"))
    assert json.loads(mlserve(home, "ps", "--output", "json").stdout)[0]["pid"] == server["pid"]
