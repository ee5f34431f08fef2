"""`mlserve export` with addresses: what is printed, and what the manifest keeps."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.store import Store
from tests.harness.file_server import FileServer


def run(*arguments: str) -> tuple[int, str]:
    command = ["export", "--backend", "echo", "--model", "echo", *arguments]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    return result.exit_code, result.stderr


def test_labels_and_weights_are_fetched_and_the_second_export_needs_no_network(
    site: FileServer,
) -> None:
    labels = site.put("/labels.txt", b"cat\ndog\n", etag='"1"')
    weights = site.put("/m.onnx", b"onnx", etag='"2"')
    code, err = run("--labels", labels, "--weights", weights)
    assert code == 0, err
    assert f"fetched  --weights {weights} on " in err
    artifact = Store().find("echo", "echo")
    assert artifact.labels() == ("cat", "dog")
    assert artifact.manifest is not None
    assert set(artifact.manifest.fetched) == {"labels", "weights"}

    for file in site.files.values():
        file.status = 503
    code, err = run("--labels", labels, "--weights", weights)
    assert code == 0, err
    reason = f"{weights} cannot be fetched: HTTP 503 Service Unavailable"
    assert f"taken from the cache unchecked: {reason}" in err


def test_offline_fetches_nothing(site: FileServer) -> None:
    code, err = run("--labels", site.put("/labels.txt", b"cat\ndog\n"), "--offline")
    assert code == 4
    assert "is not in the cache, and --offline fetches nothing" in err
    assert not site.requests


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--version", "1"], 4, "version 1 is there already"),
        (["--fill", "0"], 2, "--fill 0 has no effect"),
        (["--mean", "0.5,0.5"], 4, "--mean 0.5,0.5 has 2 values"),
    ],
)
def test_nothing_is_fetched_for_an_export_that_cannot_be(
    site: FileServer, more: list[str], code: int, message: str
) -> None:
    run("--labels", site.put("/labels.txt", b"cat\ndog\n"))
    site.requests.clear()
    found, err = run("--weights", site.put("/m.onnx", b"onnx"), *more)
    assert (found, site.requests) == (code, [])
    assert message in err


def test_an_error_in_a_file_names_its_address(site: FileServer) -> None:
    url = site.put("/labels.txt", b"")
    code, err = run("--labels", url)
    assert code == 4
    assert f"error: {url} holds no labels" in err
