"""Good, odd and bad image files through a real server, both protocols, and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend

from mlserve import Client
from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.errors import InputTooLarge, InvalidInput, NotAnImage
from mlserve.load_options import LoadOptions
from mlserve.testing.images import BAD, ODD, AnsweredImage, RefusedImage, plain
from tests.harness.command import FREE_PORTS, Command

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]

# gRPC has one code for all three; HTTP tells them apart.
KINDS = {
    "invalid_input": {"grpc": InvalidInput, "rest": InvalidInput},
    "not_an_image": {"grpc": InvalidInput, "rest": NotAnImage},
    "input_too_large": {"grpc": InvalidInput, "rest": InputTooLarge},
}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command, with a home that the tests of this module share."""
    folder = tmp_path_factory.mktemp("command")
    return Command(folder, {"MLSERVE_HOME": str(folder / "home")})


@pytest.fixture(scope="module")
def server(artifact: Artifact, command: Command) -> Iterator[dict[str, Any]]:
    """The running server of the colour classifier, as `mlserve ps` describes it."""
    served = ("--path", artifact.path.parent, "--model", "colours")
    up = command("up", *served, "--launcher", "embedded", *FREE_PORTS, "--wait", 150, timeout=200)
    assert up.returncode == 0, up.stderr
    yield command.ps()[0]
    down = command("down")
    assert down.returncode == 0, down.stderr


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(server: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Client]:
    port = server[f"{request.param}_port"]
    endpoint = f"{server['host']}:{port}"
    with Client(endpoint, protocol=request.param, model="colours") as client:
        yield client


@pytest.fixture(scope="module")
def runner(artifact: Artifact) -> Runner:
    """The same artifact, loaded in this process."""
    return TFServingBackend().load(artifact, LoadOptions())


@pytest.mark.parametrize("image", list(ODD.values()), ids=list(ODD))
def test_an_odd_image_gets_its_answer(client: Client, runner: Runner, image: AnsweredImage) -> None:
    data = np.array([image.data], dtype=object)
    expected = runner.run("serving_default", {"image": data})["output_0"][0].decode()
    assert client.predict(image.data, timeout=30).label == expected


@pytest.mark.parametrize("image", list(BAD.values()), ids=list(BAD))
def test_a_bad_image_gets_its_error_and_the_server_lives_on(
    client: Client, image: RefusedImage
) -> None:
    with pytest.raises(InvalidInput) as refused:
        client.predict(image.data, timeout=30)
    assert type(refused.value) is KINDS[image.kind][client.endpoint.protocol]
    assert image.part in refused.value.message
    assert refused.value.hint
    assert client.predict(plain("blue"), timeout=30).label == "blue"


def test_the_good_files_of_a_call_are_answered_and_the_bad_ones_named(
    command: Command, server: dict[str, Any], tmp_path: Path
) -> None:
    files = {
        "1.jpg": plain("red"),
        "2.jpg": plain("red")[:-20],
        "3.png": plain("green", "PNG"),
        "4.png": b"",
        "5.jpg": BAD["JPEG of 20000x20000"].data,
        "6.jpg": plain("blue"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    done = command("predict", tmp_path, "--timeout", 30)

    assert done.returncode == 2
    answers = dict(line.split("\t") for line in done.stdout.splitlines())
    assert {Path(name).name: label for name, label in answers.items()} == {
        "1.jpg": "red",
        "3.png": "green",
        "6.jpg": "blue",
    }
    assert all(name in done.stderr for name in ("2.jpg", "4.png", "5.jpg"))
    assert command.ps()[0]["pid"] == server["pid"]
