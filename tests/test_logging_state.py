"""The check that each module of tests leaves logging as it was."""

from __future__ import annotations

import logging

import pytest

from tests.harness.logging_state import unchanged


def test_what_a_block_changes_is_named_and_undone(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("mlserve.of.this.test")
    said = r"mlserve\.of\.this\.test: disabled.*disable\(30\)"
    with pytest.raises(AssertionError, match=said), unchanged():  # noqa: PT012
        log.disabled = True
        logging.disable(logging.WARNING)
    log.warning("it is heard again")
    assert "it is heard again" in caplog.text


def test_new_loggers_and_those_of_others_are_nobodys_fault() -> None:
    with unchanged():
        logging.getLogger("mlserve.that.is.new").warning("a word")
        logging.getLogger("a_library").setLevel(logging.ERROR)


def test_a_level_that_a_library_gives_to_the_handlers_of_its_logger_is_undone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """pytest hangs caplog's handler on loggers that do not propagate, NNCF's for one."""
    with pytest.raises(AssertionError, match="LogCaptureHandler is 40"), unchanged():
        caplog.handler.setLevel(logging.ERROR)
    logging.getLogger("mlserve.of.this.test").warning("it is heard again")
    assert "it is heard again" in caplog.text
