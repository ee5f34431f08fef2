"""`mlserve metadata` tells what the model wants and gives, and how that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mlserve.cli.contract import contract_lines_from_json
from mlserve.client.answers import read_contract
from mlserve.export import export
from mlserve.pipeline import Activation, Exif, ImagePipeline
from mlserve.sources import ModelRequest
from mlserve.testing.processes import ServerProcess, launched

pytestmark = pytest.mark.server

GIVEN = "scale    pixels 0 and 255 become -1 and 1; given"
FOUND = (
    "output   5 classes, the model's outputs are taken as scores; found in the model: its labels "
    "are all there is"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of an echo model that was exported with a scale of the user's."""
    store = tmp_path_factory.mktemp("store")
    artifact = export(ModelRequest("echo", scale=(-1.0, 1.0)), "echo", store=store)
    with launched("echo", artifact) as process:
        process.wait_ready()
        yield process


@pytest.mark.parametrize("api", ["tfs", "oip"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_metadata_says_what_was_given_and_what_was_found(
    cli: Any, server: ServerProcess, protocol: str, api: str
) -> None:
    options = ("--endpoint", server.endpoint(protocol), "--model", "echo", "--api", api)
    text = cli("metadata", *options).stdout.splitlines()
    assert GIVEN in text
    assert FOUND in text
    contract = cli("metadata", *options, "--output", "json").json()["contract"]
    assert contract["facts"]["scale"] == {"how": "given", "why": "", "warning": ""}
    assert contract["facts"]["activation"]["how"] == "found"
    assert contract["pipeline"]["offset"] == -1


def test_what_another_server_tells_in_its_place_is_left_out() -> None:
    for text in ("", "no JSON", "[1]", "[" * 100_000, '"text"'):
        assert read_contract(text) is None
    for told in ({}, {"pipeline": 1, "facts": {}}, {"pipeline": {"version": 99}, "facts": {}}):
        assert contract_lines_from_json(told) == []


def test_images_that_are_turned_are_said_to_be() -> None:
    turned = ImagePipeline(8, 8, 1.0, 0.0, Activation.IDENTITY, 2, exif=Exif.APPLY)
    as_stored = replace(turned, exif=Exif.IGNORE)
    line = "exif     images are turned upright by their EXIF orientation"
    assert line in contract_lines_from_json({"pipeline": turned.to_json(), "facts": {}})
    assert line not in contract_lines_from_json({"pipeline": as_stored.to_json(), "facts": {}})
