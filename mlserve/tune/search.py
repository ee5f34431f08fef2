"""The search of `mlserve tune`: every candidate once, then the best beside the default."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlserve.errors import MlserveError
from mlserve.load_options import LoadOptions
from mlserve.tune.candidates import combined
from mlserve.tune.judge import REPEATS, Sample, Tried, judge, ranked
from mlserve.tune.preference import Preference

Try = Callable[[LoadOptions], Sample]
"""Start a server with these options, measure it, and stop it. Raises MlserveError."""
_FINALISTS = 2
_AGAIN = 2 * (REPEATS - 1)
"""The trials that the best and the default need after the first."""


@dataclass(slots=True)
class Search:
    """A search among the candidates in `tried`, of which the first is the default.

    What is measured is added to them, so that it is there whatever ends the search.

    No candidate is begun after `budget` seconds, but the best one is then measured again in any
    case, in turn with the default. `progress` is called with how much is done, of how much, and
    with what is next.
    """

    tried: list[Tried]
    try_one: Try
    prefer: Preference
    budget: float
    progress: Callable[[int, int, LoadOptions], None]
    clock: Callable[[], float] = time.monotonic
    _began: float = 0.0
    _done: int = 0

    def run(self) -> None:
        """Measure the candidates, and the two best ones combined.

        Raises the error of the default: a model that does not answer cannot be tuned.
        """
        self._began = self.clock()
        default = self.tried[0]
        self._measure_default()
        for each in self.tried[1:]:
            if not self._has_time:
                break
            self._measure(each)
        self._try_together()
        for finalist in ranked(self.tried, self.prefer)[:_FINALISTS]:
            self._repeat(default, finalist)
            if judge(self.tried, self.prefer).winner is finalist or not self._has_time:
                break

    def _try_together(self) -> None:
        """Try the two best candidates as one."""
        best = [each.options for each in ranked(self.tried, self.prefer)]
        options = [each.options for each in self.tried]
        both = combined(options[0], best)
        if both is not None and both not in options and self._has_time:
            self.tried.append(Tried(both))
            self._measure(self.tried[-1])

    def _repeat(self, default: Tried, finalist: Tried) -> None:
        """Measure both in turn, so that a disturbance meets both."""
        while finalist.failure is None and len(finalist.samples) < REPEATS:
            self._measure(finalist)
            if len(default.samples) < len(finalist.samples):
                self._measure_default()

    def _measure_default(self) -> None:
        default = self.tried[0]
        self._measure(default)
        if default.failure is not None:
            raise default.failure

    def _measure(self, tried: Tried) -> None:
        total = max(len(self.tried) + _AGAIN, self._done + 1)
        self.progress(self._done, total, tried.options)
        try:
            tried.samples.append(self.try_one(tried.options))
        except MlserveError as error:
            tried.failure = error
        self._done += 1

    @property
    def _has_time(self) -> bool:
        return self.clock() - self._began < self.budget
