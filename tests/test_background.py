"""Work on other threads that is waited for until a deadline, and no longer."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from mlserve.background import _result, run_within
from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded


class JustInTime(Future[int]):
    """Work that ends between the end of the wait for it and the look at whether it has."""

    def result(self, timeout: float | None = None) -> int:
        if self.done():
            return super().result()
        self.set_result(7)
        raise TimeoutError


def test_work_that_ends_as_the_wait_for_it_does_has_its_result() -> None:
    assert _result(JustInTime(), Deadline.after(20), "counting", grace=0.0) == 7


def test_work_that_has_not_ended_is_late() -> None:
    with pytest.raises(DeadlineExceeded, match="counting"):
        _result(Future[int](), Deadline.after(0.01), "counting", grace=0.0)


def test_a_timeout_error_of_the_work_itself_is_its_own() -> None:
    def fail() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        run_within(Deadline.after(20), "counting", fail)
