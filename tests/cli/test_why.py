"""`mlserve why` and `mlserve audit`, against a server that has refused some requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlserve.client import Client
from mlserve.client.retries import Retries
from mlserve.errors import MlserveError
from tests.harness.echo import PHOTO
from tests.harness.faulty import Peer, answering

pytestmark = pytest.mark.server

WORK = 0.2
"""Seconds that the model takes."""
TIME = r"\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(scope="module")
def busy(start_echo: Callable[..., Any]) -> Any:
    """A server with one worker that knows how long its model takes."""
    server = start_echo("--threads", "1", delay=WORK)
    for _ in range(4):
        ask(server)
    return server


def ask(server: Any, timeout: float = 20.0) -> tuple[str, MlserveError | None]:
    """Return the id of a request, and the error if it got no answer.

    The id is empty if nothing was heard of the server in time.
    """
    once = Retries(max_attempts=1)
    with Client(server.endpoint("rest"), model="inception_v3", retries=once) as client:
        try:
            return client.predict(PHOTO, timeout=timeout).request_id, None
        except MlserveError as error:
            return error.details.get("request_id", ""), error


def ask_at_once(server: Any, count: int, **how: Any) -> list[tuple[str, MlserveError | None]]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: ask(server, **how), range(count)))


def words(outcome: Any) -> str:
    """What the command says, on one line."""
    assert outcome.returncode == 0, outcome.stderr
    return words_of(outcome.stdout)


def words_of(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_why_a_request_was_refused(cli: Any, busy: Any, protocol: str) -> None:
    results = ask_at_once(busy, 8, timeout=3.5 * WORK)
    refused = [name for name, error in results if error is not None and name]
    assert refused
    at = ("--endpoint", busy.endpoint(protocol))
    found = cli("why", refused[0], *at)
    assert re.search(rf"refused at {TIME}: .+|let in at {TIME}, taken out at .+", words(found))
    data = cli("why", refused[0], *at, "--output", "json").json()
    [decision] = data["decisions"]
    assert (data["request_id"], data["protocol"]) == (refused[0], protocol)
    assert decision["model"] == "inception_v3"
    assert decision["in_words"] in words(found)


def test_what_became_of_an_answered_one(cli: Any, busy: Any) -> None:
    request_id, _ = ask(busy)
    said = words(cli("why", request_id, "--endpoint", busy.endpoint("grpc")))
    assert re.search(
        rf"^inception_v3 version 1 \(rest.*\): let in at {TIME}, started after [\d.]+ m?s, "
        r"ran for 0\.[\d]+ s, and was answered [\d.]+ s before its deadline$",
        said,
    )


def test_each_try_is_explained(cli: Any, busy: Any) -> None:
    """A client that asks again does so with the same id."""
    for timeout in ("0", "20000"):
        headers = {"x-request-id": "asked-twice", "x-request-timeout-ms": timeout}
        busy.post({"inputs": ["x"]}, headers=headers)
    said = words(cli("why", "asked-twice", "--endpoint", busy.endpoint("rest")))
    assert re.search(rf"^1\. .+: refused at {TIME}: .+ 2\. .+: let in at {TIME}, .+answered", said)


def test_a_request_that_the_server_does_not_know(cli: Any, busy: Any) -> None:
    outcome = cli("why", "nobody's", "--endpoint", busy.endpoint("rest"))
    assert outcome.returncode == 2
    assert 'the server remembers no call "nobody\'s": it knows its last' in outcome.stderr
    assert "mlserve logs" in outcome.stderr


def http_answer(status: str, body: bytes) -> Peer:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n"
    return answering(head.encode() + body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("404 Not Found", b'{"error": "Malformed request: GET /mlserve/decisions"}'),
        ("404 Not Found", b"Not Found"),
        ("200 OK", b'{"form": 1}'),
        ("200 OK", b"<html>"),
    ],
)
def test_a_server_that_tells_nothing(
    cli: Any, faulty: Callable[[Peer], str], status: str, body: bytes
) -> None:
    """As servers of other projects do, which have no such path."""
    at = ("--endpoint", f"http://{faulty(http_answer(status, body))}")
    for command in (["why", "x"], ["audit"]):
        outcome = cli(*command, *at)
        assert outcome.returncode == 2, outcome.stderr
        assert "does not tell what it decided" in outcome.stderr


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_audit(cli: Any, busy: Any, protocol: str) -> None:
    ask_at_once(busy, 8, timeout=3 * WORK)
    at = ("--endpoint", busy.endpoint(protocol))
    found = cli("audit", *at, "--output", "json").json()
    assert found["calls"] >= found["answered"] + sum(found["refused"].values())
    assert 0 < found["answered"] <= found["calls"]
    assert 0 <= found["regret"] < 1
    said = words(cli("audit", *at))
    assert f"{found['calls']} calls in " in said
    assert f"would have answered {found['clairvoyant']['answered']}" in said
    assert f"the same admission answers {found['replayed']['answered']}" in said


def test_an_audit_of_saved_decisions(cli: Any, busy: Any, tmp_path: Path) -> None:
    ask(busy)
    saved = tmp_path / "monday.json"
    now = cli("audit", "--endpoint", busy.endpoint("grpc"), "--save", saved, "--output", "json")
    assert re.search(r"saved \d+ decisions in .*monday\.json", now.stderr)
    later = cli("audit", saved, "--output", "json")
    assert {**later.json(), "seconds": 0, "busy": 0} == {**now.json(), "seconds": 0, "busy": 0}
    assert "127.0.0.1" not in saved.read_text()


def test_a_file_that_holds_no_decisions(cli: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    for content in ("", "{", "[]", '{"form": 7}', "[" * 100_000):
        wrong.write_text(content)
        outcome = cli("audit", wrong)
        assert outcome.returncode == 2, outcome.stderr
        assert "wrong.json has no decisions of a server" in outcome.stderr
    assert "cannot be read" in cli("audit", tmp_path / "none.json").stderr
    assert "cannot be read" in cli("audit", tmp_path).stderr
    outcome = cli("audit", wrong, "--endpoint", "127.0.0.1:1")
    assert outcome.returncode == 2
    assert f"--endpoint is for a server, and {wrong} is a file" in words_of(outcome.stderr)


def test_a_place_where_nothing_can_be_saved(cli: Any, busy: Any, tmp_path: Path) -> None:
    at = ("--endpoint", busy.endpoint("rest"), "--save", tmp_path / "none" / "x.json")
    outcome = cli("audit", *at)
    assert outcome.returncode == 2
    assert "the decisions cannot be saved" in outcome.stderr


def test_decisions_that_cannot_be_saved_whole_leave_the_file_as_it_was(
    cli: Any, busy: Any, tmp_path: Path
) -> None:
    saved = tmp_path / "monday.json"
    saved.write_text("precious")
    outcome = cli(
        *("audit", "--endpoint", busy.endpoint("grpc"), "--save", saved),
        file_limit=(100, 100),
    )
    assert outcome.returncode == 2, outcome.stderr
    assert "monday.json: File too large" in outcome.stderr
    assert saved.read_text() == "precious"
    assert list(tmp_path.glob(".monday*")) == []


def test_a_server_that_has_had_no_call(
    cli: Any, start_echo: Callable[..., Any], tmp_path: Path
) -> None:
    fresh = start_echo()
    saved = tmp_path / "nothing.json"
    outcome = cli("audit", "--endpoint", fresh.endpoint("rest"), "--save", saved)
    assert outcome.returncode == 2
    assert "there is no call that admission decided on" in outcome.stderr
    assert json.loads(saved.read_text())["calls"] == []
