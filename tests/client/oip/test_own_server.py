"""mlserve's own server, asked over the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.client import Client
from mlserve.errors import DeadlineExceeded, NotFound, UsageError

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@PROTOCOLS
def test_the_answer_is_that_of_the_other_api(
    cli: Any, echo: Any, photo: Path, protocol: str
) -> None:
    endpoint = echo.endpoint(protocol)
    options = ["--endpoint", endpoint, "--top-k", 2, "--output", "json"]
    rows = [cli("predict", photo, *options, "--api", api).json() for api in ("tfs", "oip")]
    for row in rows:
        del row["timings_ms"], row["request_id"], row["trace_id"]

    assert [row.pop("api") for row in rows] == ["tfs", "oip"]
    assert rows[0] == rows[1]
    assert [score["label"] for score in rows[0]["scores"]] == ["sorrel", "zebra"]


@PROTOCOLS
def test_the_older_api_is_spoken_unless_told(echo: Any, protocol: str) -> None:
    with Client(echo.endpoint(protocol)) as client:
        assert client.predict(b"fine", timeout=20).api == "tfs"
        assert client.api == "tfs"


@PROTOCOLS
def test_metadata_and_status(cli: Any, echo: Any, protocol: str) -> None:
    options = ["--endpoint", echo.endpoint(protocol), "--api", "oip", "--output", "json"]
    metadata, status = (cli(name, *options).json() for name in ("metadata", "status"))

    (signature,) = metadata["signatures"]
    assert signature["inputs"] == [{"name": "image", "dtype": "bytes", "shape": [None]}]
    assert (metadata["version"], metadata["api"]) == (1, "oip")
    assert status["versions"] == [{"version": 1, "state": "AVAILABLE", "error": ""}]
    assert status["api"] == "oip"


@PROTOCOLS
def test_refusals(echo: Any, protocol: str) -> None:
    endpoint = echo.endpoint(protocol)
    with Client(endpoint, api="oip") as client, pytest.raises(UsageError, match="refused the"):
        client.predict(b"bad", timeout=20)
    for changes in ({"model": "other"}, {"version": 9}):
        with Client(endpoint, api="oip", **changes) as client, pytest.raises(NotFound):
            client.predict(b"fine", timeout=20)


@PROTOCOLS
def test_a_large_image(echo: Any, protocol: str) -> None:
    with Client(echo.endpoint(protocol), api="oip") as client:
        assert client.predict(bytes(range(256)) * 24_000, timeout=20).label == "sorrel"


@PROTOCOLS
def test_the_deadline_covers_the_look_at_the_model(start_echo: Any, protocol: str) -> None:
    endpoint = start_echo(delay=3).endpoint(protocol)
    with (
        Client(endpoint, api="oip") as client,
        pytest.raises(DeadlineExceeded, match="no answer within"),
    ):
        client.predict(b"fine", timeout=0.5)
