"""Run one case on one server: the capacity, the load, and the capacity again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cases import Case
from measured import Capacity, Figures, answers_between, attainment, ideal_answers
from own_client import run_own_client
from served import Server
from shocks import LASTS, trigger

from mlserve.bench.arrivals import Arrivals
from mlserve.bench.connection import Request
from mlserve.bench.load import ClosedLoop, OpenLoop, Window, run_load
from mlserve.bench.tally import Tally
from mlserve.system import usable_cpus

CLIENTS = 4
"""Callers that measure the capacity, each with one call after the other."""
BURST = 500
_TIMES_BUSY = 24
"""How often the capacity is measured until there is one: a server that knows no deadlines is busy
with callers who have left, for longer than the load took."""
_PATIENT = 30.0
_LEAST_FOR_CAPACITY = 3.0
_CLOSED_CLIENTS = 16
_PRIORITIES = ("sheddable", "default", "critical")
_MIX = 2000
"""Requests of a load of two kinds before their order repeats."""
_BEFORE_SHOCK = 4.0
_SLOWER = 1.2


class Burst(Arrivals):
    """Everything at once."""

    def moments(self, rate: float, seconds: float, seed: int) -> Iterator[float]:
        """Yield as many moments as come in a second at that rate, and all are 0."""
        return iter([0.0] * round(rate))


@dataclass(frozen=True)
class Subject:
    """A server that one case is run on, for so many seconds."""

    server: Server
    case: Case
    seconds: float

    @property
    def capacity_seconds(self) -> float:
        """How long the capacity is measured, each of three times."""
        return max(_LEAST_FOR_CAPACITY, self.seconds / 4)

    def run(self) -> Figures:
        """Measure the case."""
        kinds: dict[str, Callable[[], Figures]] = {
            "open": self._open,
            "own": self._own,
            "two": self._two,
            "burst": self._burst,
            "closed": self._closed,
            "priorities": self._priorities,
            "bursts": self._bursts,
            "shock": self._shock,
        }
        return kinds[self.case.kind]()

    def _request(
        self, wait: float, model: str | None = None, *, is_bright: bool = False
    ) -> Request:
        case = self.case
        return self.server.request(
            model or case.model, case.transport, wait, is_told=case.is_told, is_bright=is_bright
        )

    def _capacity(self, model: str | None = None) -> tuple[float, float | None]:
        """Return the answers a second, and the CPU time of one; the callers tell 30 s."""
        ask = self.server.request(model or self.case.model, self.case.transport, _PATIENT)
        target = self.server.target([ask], self.case.transport)
        window = Window(self.capacity_seconds, 0.0, _PATIENT)
        for _ in range(_TIMES_BUSY):
            tally = run_load(target, ClosedLoop(CLIENTS), window)
            if tally.in_time:
                break
        else:
            within = _TIMES_BUSY * window.seconds
            raise SystemExit(f"no answer in {within:g} s: give more --seconds")
        cpu = None if tally.server_cpu is None else tally.server_cpu / tally.in_time
        return tally.goodput, cpu

    def _load(
        self, requests: Sequence[Request], load: OpenLoop, seconds: float | None = None
    ) -> Tally:
        window = Window(seconds or self.seconds, 0.0, self.case.longest_wait, keeps_ends=True)
        return run_load(self.server.target(requests, self.case.transport), load, window)

    def _around(self, run: Callable[[float], tuple[float, Tally]]) -> Figures:
        """Measure the capacity, run the load with it, and measure it again.

        `run` gets the capacity, and returns the rate and what became of the load.
        """
        self._capacity()  # a first time, so that all is warm
        before, cpu = self._capacity()
        work = self.server.work()
        rate, tally = run(before)
        idle = self.server.seconds_until_idle()
        done = {name: count - work.get(name, 0) for name, count in self.server.work().items()}
        after, _ = self._capacity()
        return Figures(self.case, Capacity(before, after, cpu), rate, tally, done, idle)

    def _open(self, seconds: float | None = None) -> Figures:
        requests = [self._request(wait) for wait in self.case.waits]

        def run(capacity: float) -> tuple[float, Tally]:
            rate = self.case.times * capacity
            return rate, self._load(requests, OpenLoop(rate, Arrivals(self.case.cv)), seconds)

        return self._around(run)

    def _own(self) -> Figures:
        """Measure load and capacity with mlserve's own client: it costs more than ready bytes."""
        case, (wait,) = self.case, self.case.waits

        def own(rate: float, seconds: float, timeout: float) -> Tally:
            return run_own_client(self.server, case.model, case.transport, rate, seconds, timeout)

        own(0.0, self.capacity_seconds, _PATIENT)
        before = own(0.0, self.capacity_seconds, _PATIENT)
        work = self.server.work()
        rate = case.times * before.goodput
        tally = own(rate, self.seconds, wait)
        idle = self.server.seconds_until_idle()
        done = {name: count - work.get(name, 0) for name, count in self.server.work().items()}
        after = own(0.0, self.capacity_seconds, _PATIENT)
        cpu = None if before.server_cpu is None else before.server_cpu / max(1, before.in_time)
        capacity = Capacity(before.goodput, after.goodput, cpu)
        found = Figures(case, capacity, rate, tally, done, idle)
        found.of_case["of_bare_capacity"] = (
            answers_between(tally.ends, 0.0, tally.seconds) / self._capacity()[0]
        )
        return found

    def _two(self) -> Figures:
        """Give each of two models twice its share: as much as it could answer alone."""
        alone = {model: self._capacity(model)[0] for model in ("slow", "fast")}
        alone = {model: self._capacity(model)[0] for model in alone}
        asks = {m: replace(self._request(w, m), label=m) for m in alone for w in self.case.waits}
        rate = sum(alone.values())
        chance = random.Random(2)
        mixed = chance.choices(list(asks.values()), list(alone.values()), k=_MIX)
        found = self._around(lambda _: (rate, self._load(mixed, OpenLoop(rate))))
        again = {model: self._capacity(model)[0] for model in alone}
        for model, before in alone.items():
            own = [end for end in found.tally.ends if end.label == model]
            share = (before + again[model]) / 2 / len(alone)
            found.of_case[f"{model}_share"] = answers_between(own, 0.0, found.tally.seconds) / share
        return found

    def _burst(self) -> Figures:
        ask = self._request(*self.case.waits)
        return self._around(lambda _: (BURST, self._load([ask], OpenLoop(BURST, Burst()), 1.0)))

    def _closed(self) -> Figures:
        """Measure throughput and latency of a closed loop, at its ends as everywhere."""
        ask = self._request(*self.case.waits)

        def run(_: float) -> tuple[float, Tally]:
            window = Window(self.seconds, 1.0, _PATIENT, keeps_ends=True)
            target = self.server.target([ask], self.case.transport)
            tally = run_load(target, ClosedLoop(_CLOSED_CLIENTS), window)
            return tally.goodput, tally

        found = self._around(run)
        found.of_case |= {
            "goodput": found.tally.goodput,
            "p99_ms": 1000 * (found.tally.answers.quantile(0.99) or 0.0),
        }
        return found

    def _priorities(self) -> Figures:
        (wait,) = self.case.waits
        asks = [self._with_priority(self._request(wait), name) for name in _PRIORITIES]
        mixed = random.Random(2).choices(asks, k=_MIX)

        def run(capacity: float) -> tuple[float, Tally]:
            rate = self.case.times * capacity
            return rate, self._load(mixed, OpenLoop(rate))

        found = self._around(run)
        by_label = {name: [e for e in found.tally.ends if e.label == name] for name in _PRIORITIES}
        for name, own in by_label.items():
            found.of_case[f"{name}_attainment"] = attainment(own, lambda _: True)
        return found

    def _with_priority(self, ask: Request, name: str) -> Request:
        head = ask.head[:-2] + f"x-request-priority: {name}\r\n\r\n".encode()
        return replace(ask, head=head, label=name)

    def _bursts(self) -> Figures:
        """Compare with an ideal server, and look at those who come after each burst.

        A burst is what an ideal server that is a fifth slower could not bear.
        """
        found = self._open(2 * self.seconds)
        (wait,) = self.case.waits
        ends = sorted(end for end in found.tally.ends if 0 <= end.planned < found.tally.seconds)
        planned, capacity = [end.planned for end in ends], found.capacity.mean
        ideal = ideal_answers(planned, capacity, wait, usable_cpus()).count(True)
        borne = ideal_answers(planned, capacity / _SLOWER, wait, usable_cpus())
        over, after = -wait, []
        for end, is_borne in zip(ends, borne, strict=True):
            over = over if is_borne else end.planned
            if end.planned >= over + wait:
                after.append(end)
        found.of_case["of_ideal"] = found.tally.in_time / ideal if ideal else 1.0
        found.of_case["attainment_after"] = attainment(after, lambda _: True)
        return found

    def _shock(self) -> Figures:
        """Pull a trigger in the middle of the load, and look at those who come after it."""
        case, (wait,), lasts = self.case, self.case.waits, LASTS[self.case.shock]
        begins, ends = _BEFORE_SHOCK, _BEFORE_SHOCK + lasts
        seconds = max(self.seconds, ends + 4 * wait)

        def run(capacity: float) -> tuple[float, Tally]:
            rate = case.times * capacity
            load = OpenLoop(rate, retries=case.retries)
            start = time.monotonic() + begins
            with trigger(self.server, case.model, case.shock, start):
                return rate, self._load(self._through(rate, seconds, begins, ends), load, seconds)

        found = self._around(run)
        calls = found.tally.ends
        found.of_case |= {
            "attainment_before": attainment(calls, lambda end: end.planned < begins - wait),
            "attainment_during": attainment(calls, lambda end: begins <= end.planned < ends),
            "attainment_after": attainment(calls, lambda end: ends + wait <= end.planned < seconds),
        }
        return found

    def _through(self, rate: float, seconds: float, begins: float, ends: float) -> list[Request]:
        """Return the requests of a shock's load; those of a model that turns slow are bright."""
        (wait,) = self.case.waits
        usual = self._request(wait)
        if self.case.shock != "slower":
            return [usual]
        bright = self._request(wait, is_bright=True)
        moments = Arrivals().moments(rate, seconds, Window(0, 0, 0).seed)
        return [bright if begins <= moment < ends else usual for moment in moments]
