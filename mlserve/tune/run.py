"""Tune one model: search among what this machine can do, judge, and keep the winner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlserve.bench.processes import LoadProcesses
from mlserve.bench.target import Target
from mlserve.launch import ports
from mlserve.launch.records import ServerRecord
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import request_up
from mlserve.load_options import LoadOptions
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import DEFAULT_HOST, EMBEDDED
from mlserve.tune.candidates import candidates, tuned_part
from mlserve.tune.golden import examining
from mlserve.tune.judge import Tried, Verdict, judge, so_far
from mlserve.tune.machine import Machine
from mlserve.tune.preference import Preference
from mlserve.tune.records import Tuning, digest_of, keep
from mlserve.tune.search import Search
from mlserve.tune.trial import Trials

_CLIENTS_A_CPU = 2


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How to tune: what is preferred, about how many seconds in all, and for each request."""

    prefer: Preference
    budget: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """A search and its verdict; `tuning` is what is kept, `many` how many clients asked at once."""

    tried: Sequence[Tried]
    verdict: Verdict
    tuning: Tuning
    prefer: Preference
    many: int
    is_interrupted: bool = False

    @property
    def untried(self) -> int:
        """How many candidates there was no time for."""
        return sum(not (tried.samples or tried.failure) for tried in self.tried)

    @property
    def is_kept(self) -> bool:
        """Whether it is kept for `mlserve up`.

        Not if there was no time for anything but the default, which then has won against nobody,
        and not if an interrupt ended it before there was a winner.
        """
        if self.is_interrupted:
            return False
        return len(self.tried) == 1 or self.untried < len(self.tried) - 1

    def to_json(self) -> dict[str, Any]:
        return {
            "tuning": self.tuning.to_json(),
            "is_kept": self.is_kept,
            "is_interrupted": self.is_interrupted,
            "not_tried": self.untried,
            "prefer": self.prefer.value,
            "clients": [1, self.many],
            "candidates": [
                {
                    "options": tuned_part(tried.options).changed,
                    "is_winner": tried is self.verdict.winner and not self.is_interrupted,
                    "result": reason,
                    "samples": [sample.to_json() for sample in tried.samples],
                }
                for tried, reason in zip(self.tried, self.verdict.reasons, strict=True)
            ],
        }


def tune_model(
    model: ServedModel,
    target_of: Callable[[ServerRecord], Target],
    options: TuneOptions,
    progress: Callable[[int, int, LoadOptions], None],
) -> Tuned:
    """Measure the model with its options and with others beside them, and keep the winner.

    What was kept before stays until all is measured, and if there was no time for any other. An
    interrupt ends the search, which then has no winner; it is raised before the default is
    measured. Raises the errors of `mlserve up`, and those of a model that does not answer.
    """
    where = ports.PortRequest(DEFAULT_HOST, 0, 0)
    request = request_up(Serving((model,)), where, EMBEDDED)
    here, digest = Machine.here(), digest_of(model)
    many = _CLIENTS_A_CPU * here.usable_cpus
    wanted = candidates(request.backend, here.usable_cpus, model.options)
    tried, is_interrupted = [Tried(each) for each in wanted], False
    try:
        with Interrupts.watched() as interrupts, LoadProcesses() as loads:
            trials = Trials(
                request,
                target_of,
                many,
                options.timeout,
                loads,
                interrupts,
                examining(model, options.timeout),
            )
            Search(tried, trials, options.prefer, options.budget, progress).run()
    except KeyboardInterrupt:
        if not tried[0].samples:
            raise
        is_interrupted = True
    verdict = (so_far if is_interrupted else judge)(tried, options.prefer)
    tuning = Tuning(
        backend=model.backend,
        model=model.model,
        base_path=model.base_path,
        version=model.expected[0],
        digest=digest,
        machine=here,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        options=tuned_part(verdict.winner.options),
        gain=verdict.gain,
    )
    tuned = Tuned(tried, verdict, tuning, options.prefer, many, is_interrupted)
    if tuned.is_kept:
        keep(tuning)
    return tuned
