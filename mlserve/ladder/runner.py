"""A ladder as one Runner: each row is answered by the first rung that is certain of its label."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mlserve.backend import Batching, Runner, batching_of, judges_shapes, limit_threads
from mlserve.deadline import Deadline
from mlserve.ladder.certainty import are_certain
from mlserve.ladder.climb import Climb, Fate, RowRung, require_certain
from mlserve.ladder.run_times import RunTimes
from mlserve.ladder.rungs import Ladder, Rung, scores_of
from mlserve.load_options import LadderPolicy
from mlserve.tensors import DEFAULT_SIGNATURE, Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Array = np.ndarray[Any, Any]
_TOP_K, _RANKING, _SCORES, _LABELS = "top_k", "ranking", "scores", "labels"
_OF_IMAGES = (DEFAULT_SIGNATURE, _TOP_K, _RANKING)
_TWO = 2


@runtime_checkable
class TakesPixels(Protocol):
    """An image classifier whose images can be prepared once for several models."""

    @property
    def takes_pixels(self) -> bool:
        """Whether it can: its pixels are those that the image pipeline in Python gives."""

    def pixels(self, inputs: Tensors, deadline: Deadline | None = None) -> Array:
        """Return the images prepared, float32[N, ...]. Raises what `Runner.run` raises."""

    def run_on_pixels(
        self, signature: str, pixels: Array, deadline: Deadline | None = None
    ) -> Tensors:
        """Return the outputs for prepared images. Raises what `Runner.run` raises."""


@dataclass(frozen=True, slots=True)
class LoadedRung:
    """A rung with its Runner, and how long its runs take here."""

    rung: Rung
    runner: Runner
    times: RunTimes = field(default_factory=RunTimes)


class LadderRunner:
    """The rungs of a ladder, the cheapest first. Threads may call it at the same time."""

    def __init__(self, ladder: Ladder, runners: Sequence[Runner], *, has_images: bool) -> None:
        """`has_images`: whether the rungs are image classifiers that mlserve exported."""
        self.ladder = ladder
        self._rungs = [
            LoadedRung(r, runner) for r, runner in zip(ladder.rungs, runners, strict=True)
        ]
        self._has_images = has_images
        self._shares_pixels = has_images and all(
            isinstance(runner, TakesPixels) and runner.takes_pixels for runner in runners
        )
        self.signatures: Mapping[str, Signature] = {
            name: signature
            for name, signature in runners[-1].signatures.items()
            if (name in _OF_IMAGES if has_images else scores_of(signature) is not None)
        }
        """Those of the last rung that have scores to decide by."""

    @property
    def judges_shapes(self) -> bool:
        """Whether every rung checks the shapes of its inputs itself."""
        return all(judges_shapes(each.runner) for each in self._rungs)

    @property
    def batching(self) -> Batching | None:
        """How the first rung, which every request runs on, likes requests to be run together."""
        return batching_of(self._rungs[0].runner)

    def on_rung(self, place: int) -> Runner:
        """Return the Runner of the rung in that place."""
        return self._rungs[place].runner

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is any number."""
        for each in self._rungs:
            limit_threads(each.runner, threads)

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs; see `climb`. Raises DeadlineExceeded if a row is REFUSED."""
        climbed = self.climb(signature, inputs, deadline)
        require_certain(climbed.rows, climbed.needed, deadline)
        return climbed.outputs

    def climb(
        self,
        signature: str,
        inputs: Tensors,
        deadline: Deadline | None,
        *,
        only_rung: int | None = None,
    ) -> Climb:
        """Return the outputs and the rung of each row. Raises what `Runner.run` raises.

        Rows whose label is uncertain go on to the next rung, if it can end before the deadline.
        With `only_rung`, a place, that rung alone is run, and no row is REFUSED.
        """
        asked = self._asked(signature)
        question = self._question(asked, inputs, deadline)
        first = only_rung or 0
        # A golden question runs on one thread: its time says nothing about a request's.
        run = self._timed if only_rung is None else self._run
        outputs = run(self._rungs[first], asked, question, deadline)
        places = np.full(_rows(outputs), first, np.intp)
        doubtful = self._doubtful(self._rungs[first], asked, outputs)
        needed = 0.0
        for place, rung in enumerate(self._rungs[1:] if only_rung is None else (), start=1):
            if not len(doubtful):
                break
            needed = rung.times.needed(len(doubtful), time.monotonic())
            if deadline is not None and deadline.remaining() < needed:
                break
            found = self._timed(rung, asked, question.of(doubtful), deadline)
            outputs = _merged(outputs, found, doubtful)
            places[doubtful] = place
            doubtful = doubtful[self._doubtful(rung, asked, found)]
        may_refuse = only_rung is None and self.ladder.policy is LadderPolicy.REFUSE
        rows = self._fates(places, doubtful, Fate.REFUSED if may_refuse else Fate.UNCERTAIN)
        return Climb(self._answers(signature, outputs), rows, needed if len(doubtful) else 0.0)

    def measure(self, signature: str, inputs: Tensors) -> None:
        """Run every rung once, so that the first request knows how long a climb takes."""
        asked = self._asked(signature)
        question = self._question(asked, inputs, None)
        for rung in self._rungs:
            self._timed(rung, asked, question, None)

    def close(self) -> None:
        """Free the memory of all rungs."""
        for each in self._rungs:
            each.runner.close()

    def _asked(self, signature: str) -> str:
        """Return the signature that gives the scores for the answers of that one."""
        if not self._has_images or signature == _RANKING:
            return signature
        classes = self.signatures[_TOP_K].outputs[0].shape or ()
        has_two = len(classes) == _TWO and (classes[1] or 0) >= _TWO
        return _TOP_K if has_two else _RANKING

    def _question(self, asked: str, inputs: Tensors, deadline: Deadline | None) -> _Question:
        first = self._rungs[0].runner
        if self._shares_pixels and isinstance(first, TakesPixels):
            return _Question({}, first.pixels(inputs, deadline))
        return _Question(inputs)

    def _timed(
        self, rung: LoadedRung, asked: str, question: _Question, deadline: Deadline | None
    ) -> Tensors:
        started = time.monotonic()
        outputs = self._run(rung, asked, question, deadline)
        now = time.monotonic()
        rung.times.note(_rows(outputs), now - started, now)
        return outputs

    def _run(
        self, rung: LoadedRung, asked: str, question: _Question, deadline: Deadline | None
    ) -> Tensors:
        if question.pixels is not None and isinstance(rung.runner, TakesPixels):
            return rung.runner.run_on_pixels(asked, question.pixels, deadline)
        return rung.runner.run(asked, question.inputs, deadline)

    def _doubtful(self, rung: LoadedRung, asked: str, outputs: Tensors) -> Array:
        """Return the rows of which the rung is not certain; none of the last one."""
        if rung is self._rungs[-1]:
            return np.empty(0, np.intp)
        output = _SCORES if self._has_images else _scores_output(self.signatures[asked])
        difference = rung.rung.difference
        assert difference is not None, "every rung but the last has a certificate"
        return np.flatnonzero(~are_certain(outputs[output], difference))

    def _fates(self, places: Array, doubtful: Array, left: Fate) -> tuple[RowRung, ...]:
        fates = [Fate.CERTAIN] * len(places)
        for row in doubtful:
            fates[row] = left
        return tuple(
            RowRung(int(place), self.ladder.rungs[place].name, fate)
            for place, fate in zip(places, fates, strict=True)
        )

    def _answers(self, signature: str, outputs: Tensors) -> Tensors:
        """Return the outputs of that signature, from those of the one that was asked."""
        if not self._has_images or signature == _RANKING:
            return outputs
        if signature == DEFAULT_SIGNATURE:
            return {self.signatures[signature].outputs[0].name: outputs[_LABELS][:, 0]}
        shape = self.signatures[signature].outputs[0].shape or ()
        return {name: array[:, : shape[1]] for name, array in outputs.items()}


@dataclass(frozen=True, slots=True)
class _Question:
    """The inputs of a call, or its images as prepared for all rungs."""

    inputs: Tensors
    pixels: Array | None = None

    def of(self, rows: Array) -> _Question:
        """Return the question of these rows only."""
        if self.pixels is not None:
            return _Question({}, self.pixels[rows])
        return _Question({name: array[rows] for name, array in self.inputs.items()})


def _rows(outputs: Tensors) -> int:
    return len(next(iter(outputs.values())))


def _scores_output(signature: Signature) -> str:
    name = scores_of(signature)
    assert name is not None, "a ladder has scores in every signature"
    return name


def _merged(outputs: Tensors, found: Tensors, rows: Array) -> Tensors:
    """Return the outputs with what was found for these rows in their places."""
    merged = {}
    for name, array in outputs.items():
        merged[name] = np.array(array)
        merged[name][rows] = found[name]
    return merged
