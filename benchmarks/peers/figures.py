"""What the comparison measured, as values and as JSON, and the arithmetic of its tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Closed:
    """Clients that each ask again when they have their answer: answers a second, milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Overload:
    """Requests at `rate` a second, whatever becomes of them: `goodput` is of answers in time."""

    rate: float
    capacity: float
    goodput: float

    @property
    def share(self) -> float:
        """Return the answers in time as a part of the capacity."""
        return self.goodput / self.capacity if self.capacity else 0.0


@dataclass(frozen=True)
class Round:
    """One server with one model, started once. `ready` is seconds, `pss` bytes.

    `closed` is by the number of clients, `neighbour` beside a process that keeps a core busy.
    """

    model: str
    server: str
    settings: str
    is_ours: bool = False
    ready: float | None = None
    pss: int | None = None
    closed: dict[int, Closed] = field(default_factory=dict)
    overload: Overload | None = None
    neighbour: Closed | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `asdict` gave and JSON kept."""
        closed = {int(clients): Closed(**each) for clients, each in data["closed"].items()}
        overload = data["overload"] and Overload(**data["overload"])
        neighbour = data["neighbour"] and Closed(**data["neighbour"])
        warnings = tuple(data["warnings"])
        changed = {"closed": closed, "overload": overload, "neighbour": neighbour}
        return cls(**{**data, **changed, "warnings": warnings})


@dataclass(frozen=True)
class Trial:
    """The rate of a server with some settings, by which the best ones were chosen."""

    model: str
    server: str
    settings: str
    rate: float


@dataclass
class Results:
    """All that one run measured, and on what."""

    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    rounds: list[Round] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Servers that could not be had or did not start, and why."""

    def to_json(self) -> dict[str, Any]:
        """Return all as data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` gave."""
        rounds = [Round.from_json(each) for each in data["rounds"]]
        return cls(**{**data, "rounds": rounds, "trials": [Trial(**t) for t in data["trials"]]})

    @property
    def models(self) -> list[str]:
        """Return the models, in the order they were measured."""
        return list(dict.fromkeys(each.model for each in self.rounds))

    def settings(self, model: str, server: str) -> str | None:
        """Return what a server was started with; None if it was not measured."""
        for each in self.rounds:
            if (each.model, each.server) == (model, server):
                return each.settings
        return None

    def trials_of(self, model: str, server: str) -> list[Trial]:
        """Return what the settings of a server were chosen by."""
        return [each for each in self.trials if (each.model, each.server) == (model, server)]

    def servers(self, model: str) -> list[Server]:
        """Return the servers that served a model, mlserve's first, then by rate at most clients."""
        rounds = [each for each in self.rounds if each.model == model]
        rows = dict.fromkeys((each.server, each.settings) for each in rounds)
        found = [
            Server(name, [r for r in rounds if (r.server, r.settings) == (name, settings)])
            for name, settings in rows
        ]
        return sorted(found, key=lambda server: (not server.is_ours, -server.best_rate))


@dataclass(frozen=True)
class Figure:
    """A median of rounds, with the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return the figure of what is known; None if nothing is."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known)) if known else None

    @property
    def spread(self) -> float:
        """Return the distance from the least to the most, as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Server:
    """The rounds of one server with one model."""

    name: str
    rounds: list[Round]

    @property
    def is_ours(self) -> bool:
        """Whether it is mlserve."""
        return self.rounds[0].is_ours

    @property
    def settings(self) -> str:
        """Return what it was started with."""
        return self.rounds[0].settings

    @property
    def is_in_process(self) -> bool:
        """Whether it is no server, but the model in the caller's process."""
        return self.rounds[0].ready is None

    @property
    def clients(self) -> list[int]:
        """Return the numbers of clients that it was measured with."""
        return sorted({clients for each in self.rounds for clients in each.closed})

    @property
    def best_rate(self) -> float:
        """Return the best median of answers a second."""
        rates = [figure.median for n in self.clients if (figure := self.rate(n)) is not None]
        return max(rates, default=0.0)

    def figure(self, of: Callable[[Round], float | None]) -> Figure | None:
        """Return a figure over the rounds."""
        return Figure.of(of(each) for each in self.rounds)

    def rate(self, clients: int) -> Figure | None:
        """Return the answers a second with so many clients.

        In process, several callers are the ceiling for as many clients and for more.
        """
        return self._closed(clients, lambda closed: closed.rate)

    def p50(self, clients: int) -> Figure | None:
        """Return the median latency with so many clients, in milliseconds."""
        return self._closed(clients, lambda closed: closed.p50)

    def p99(self, clients: int) -> Figure | None:
        """Return the 99th percentile with so many clients, in milliseconds."""
        return self._closed(clients, lambda closed: closed.p99)

    def _closed(self, clients: int, of: Callable[[Closed], float]) -> Figure | None:
        callers = max(self.clients, default=0)
        if self.is_in_process and 1 < callers < clients:
            clients = callers
        return Figure.of(of(each.closed[clients]) for each in self.rounds if clients in each.closed)

    @property
    def ready(self) -> Figure | None:
        """Return the seconds from the command to the first answer."""
        return self.figure(lambda each: each.ready)

    @property
    def pss(self) -> Figure | None:
        """Return the memory of all its processes, in MB."""
        return self.figure(lambda each: each.pss and each.pss / 1e6)

    @property
    def overload(self) -> Figure | None:
        """Return the answers in time at three times the capacity, as a part of the capacity."""
        return self.figure(lambda each: each.overload and each.overload.share)

    @property
    def neighbour(self) -> Figure | None:
        """Return the answers a second beside a process that keeps a core busy."""
        return self.figure(lambda each: each.neighbour and each.neighbour.rate)


@dataclass(frozen=True)
class Measure:
    """One thing to compare servers by."""

    name: str
    unit: str
    of: Callable[[Server], Figure | None]
    is_less_better: bool = False

    def best(self, servers: Sequence[Server]) -> tuple[Server, Figure] | None:
        """Return the best of the servers; None if it was measured for none."""
        known = [(server, figure) for server in servers if (figure := self.of(server)) is not None]
        if not known:
            return None
        pick = min if self.is_less_better else max
        return pick(known, key=lambda pair: pair[1].median)

    def ratio(self, ours: Figure, theirs: Figure) -> float:
        """Return how much better ours is: above 1 better, below 1 worse, whatever is better."""
        if self.is_less_better:
            return theirs.median / ours.median if ours.median else 1.0
        return ours.median / theirs.median if theirs.median else 1.0


def measures(clients: Iterable[int]) -> list[Measure]:
    """Return all that servers are compared by, with these numbers of clients."""
    found = []
    for n in clients:
        named = f"{n} client{'s'[: n != 1]}"
        found.append(Measure(f"{named}, answers", "/s", lambda server, n=n: server.rate(n)))  # type: ignore[misc]
        found.append(
            Measure(f"{named}, p99", " ms", lambda server, n=n: server.p99(n), is_less_better=True)  # type: ignore[misc]
        )
    return [
        *found,
        Measure("beside a busy neighbour, answers", "/s", lambda server: server.neighbour),
        Measure("in time at 3 times the load", " of the capacity", lambda server: server.overload),
        Measure("ready", " s", lambda server: server.ready, is_less_better=True),
        Measure("memory", " MB", lambda server: server.pss, is_less_better=True),
    ]


@dataclass(frozen=True)
class Comparison:
    """mlserve's best row beside the best other server, by one measure."""

    measure: Measure
    ours: tuple[Server, Figure]
    theirs: tuple[Server, Figure]

    @property
    def ratio(self) -> float:
        """Return how much better mlserve is; below 1 is worse."""
        return self.measure.ratio(self.ours[1], self.theirs[1])


def comparisons(servers: Sequence[Server]) -> list[Comparison]:
    """Return mlserve beside the best other server, by every measure that both have."""
    real = [server for server in servers if not server.is_in_process]
    clients = sorted({n for server in real for n in server.clients})
    found = []
    for measure in measures(clients):
        ours = measure.best([server for server in real if server.is_ours])
        theirs = measure.best([server for server in real if not server.is_ours])
        if ours and theirs:
            found.append(Comparison(measure, ours, theirs))
    return found
