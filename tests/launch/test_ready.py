"""What is said of a server whose version does not load, however long it takes to end."""

from __future__ import annotations

import time

import pytest

from mlserve.errors import MlserveError, ModelLoadFailed, PluginError, Unavailable
from mlserve.launch import ready
from tests.launch.test_records import RECORD

NOT_LOADED = ModelLoadFailed("version 1 of m does not load: broken")
CLOSED = Unavailable("nothing listens there any more")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[MlserveError | None]:
    """What the server says when it is asked, in order; the last again and again."""
    given: list[MlserveError | None] = []

    def are_available(*_: object) -> bool:
        answer = given.pop(0) if len(given) > 1 else given[0]
        if answer is not None:
            raise answer
        return True

    monkeypatch.setattr(ready, "_are_available", are_available)
    monkeypatch.setattr(ready, "_ask_each", lambda *_: None)
    for seconds in ("_LAST_WORDS", "_OUR_LAST_WORDS"):
        monkeypatch.setattr(ready, seconds, 0.3)
    return given


def wait(*seen: MlserveError | None) -> None:
    """Wait for the server; `seen` is what comes of each look at its process, and then it lives."""
    endings = iter(seen)

    def require_alive() -> None:
        if (error := next(endings, None)) is not None:
            raise error

    ready.wait_until_ready(RECORD, RECORD.serving, time.monotonic() + 30, require_alive)


@pytest.mark.parametrize("later", [NOT_LOADED, CLOSED], ids=["stays", "closes its ports"])
def test_a_version_that_does_not_load_is_told_soon(
    answers: list[MlserveError | None], later: MlserveError
) -> None:
    answers += [NOT_LOADED, later]
    began = time.monotonic()
    with pytest.raises(ModelLoadFailed, match="broken"):
        wait()
    assert time.monotonic() - began < 10


def test_the_last_words_of_a_server_that_ends_come_first(
    answers: list[MlserveError | None],
) -> None:
    answers += [NOT_LOADED]
    with pytest.raises(PluginError, match="last words"):
        wait(None, None, PluginError("its last words"))


def test_a_version_that_loads_after_all_is_ready(answers: list[MlserveError | None]) -> None:
    answers += [NOT_LOADED, None]
    wait()
