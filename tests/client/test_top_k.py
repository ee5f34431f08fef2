"""How many classes an answer has is the caller's choice, up to all of them; a shorter one says why.

The journal of the echo backend shows which signatures were asked, one line each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.client import Client

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
APIS = pytest.mark.parametrize("api", ["tfs", "oip"])
MANY = 300


@pytest.fixture(scope="module")
def start(start_echo: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`start(classes=300, ...)` starts a server; `asked()` of it lists what was asked since."""

    class Journalled:
        def __init__(self, **config: Any) -> None:
            self._journal: Path = tmp_path_factory.mktemp("journal") / "journal"
            self._echo = start_echo(**config, journal=str(self._journal))
            self.asked()

        def endpoint(self, protocol: str) -> str:
            return str(self._echo.endpoint(protocol))

        def asked(self) -> list[str]:
            lines = self._journal.read_text().splitlines()
            self._journal.write_text("")
            return lines

    started: dict[str, Journalled] = {}

    def make(**config: Any) -> Journalled:
        key = repr(sorted(config.items()))
        if key not in started:
            started[key] = Journalled(**config)
        started[key].asked()
        return started[key]

    return make


@PROTOCOLS
@APIS
def test_an_answer_has_as_many_classes_as_are_wanted(start: Any, protocol: str, api: Any) -> None:
    server = start(classes=MANY)
    with Client(server.endpoint(protocol), api=api) as client:
        for wanted in (1, 5, 6, 10, MANY):
            found = client.predict(b"fine", timeout=20, top_k=wanted)
            assert [score.index for score in found.scores] == list(range(wanted))
            assert (found.label, found.shortfall) == ("sorrel", None)
    assert server.asked() == ["top_k"] * 2 + ["ranking"] * 3


@PROTOCOLS
@APIS
def test_without_a_wish_the_five_best_are_asked_for_in_one_question(
    start: Any, protocol: str, api: Any
) -> None:
    for config, count in (({"classes": MANY}, 5), ({"classes": 2}, 2), ({"k": 3}, 3)):
        server = start(**config)
        with Client(server.endpoint(protocol), api=api) as client:
            found = client.predict(b"fine", timeout=20)
        assert (len(found.scores), found.shortfall) == (count, None)
        assert server.asked() == ["top_k"]


@PROTOCOLS
@APIS
def test_more_than_the_export_holds_is_asked_of_the_ranking(
    start: Any, protocol: str, api: Any
) -> None:
    """`export --top-k 2` of a model of 300 classes: the first answer shows it."""
    server = start(classes=MANY, k=2)
    with Client(server.endpoint(protocol), api=api) as client:
        for _ in range(2):
            found = client.predict(b"fine", timeout=20, top_k=4)
            assert (len(found.scores), found.shortfall) == (4, None)
        assert len(client.predict(b"fine", timeout=20, top_k=2).scores) == 2
    assert server.asked() == ["top_k", "ranking", "ranking", "top_k"]


@PROTOCOLS
@APIS
@pytest.mark.parametrize("wanted", [3, 10])
def test_more_classes_than_the_model_has_are_all_of_them_and_it_says_so(
    start: Any, protocol: str, api: Any, wanted: int
) -> None:
    with Client(start(classes=2).endpoint(protocol), api=api) as client:
        for _ in range(2):
            found = client.predict(b"fine", timeout=20, top_k=wanted)
            assert [score.label for score in found.scores] == ["sorrel", "zebra"]
            assert found.shortfall == "the model has 2 classes"


@PROTOCOLS
def test_a_model_of_few_classes_is_asked_once_whatever_is_wanted(start: Any, protocol: str) -> None:
    """Its metadata tell that there are no more, and they are looked at once."""
    server = start(classes=2)
    with Client(server.endpoint(protocol)) as client:
        for _ in range(3):
            client.predict(b"fine", timeout=20, top_k=4)
    assert server.asked() == ["top_k"] * 3


@PROTOCOLS
@APIS
@pytest.mark.parametrize(("wanted", "given"), [(4, 3), (10, 3)])
def test_an_export_of_before_there_was_a_ranking_gives_what_it_has_and_it_is_said(
    start: Any, protocol: str, api: Any, wanted: int, given: int
) -> None:
    with Client(start(k=3, is_older=True).endpoint(protocol), api=api) as client:
        for _ in range(2):
            found = client.predict(b"fine", timeout=20, top_k=wanted)
            assert len(found.scores) == given
            assert "only its best 3" in str(found.shortfall)
        assert client.predict(b"fine", timeout=20, top_k=3).shortfall is None


def test_the_command_line_says_it_once_on_stderr_and_in_json(
    cli: Any, start: Any, photo: Path
) -> None:
    endpoint = start(classes=2).endpoint("grpc")
    options = ["predict", photo, photo, "--endpoint", endpoint, "--top-k", "7"]
    text, jsonl = cli(*options), cli(*options, "--output", "json")
    assert text.returncode == 0
    assert text.stdout.count("zebra") == 2
    assert text.stderr == "note: 2 of the 7 best labels: the model has 2 classes\n"
    rows = jsonl.json()["predictions"]
    assert [row["shortfall"] for row in rows] == ["the model has 2 classes"] * 2
    assert jsonl.stderr == text.stderr


def test_the_command_line_prints_as_many_as_are_wanted(cli: Any, start: Any, photo: Path) -> None:
    endpoint = start(classes=MANY).endpoint("grpc")
    outcome = cli("predict", photo, "--endpoint", endpoint, "--top-k", MANY)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert len(outcome.stdout.splitlines()) == 1 + MANY
