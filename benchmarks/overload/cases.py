"""The loads, and what each of them has to reach: the table of targets."""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND = (1.0,)
MIXED = (0.5, 1.0, 5.0)
TRIES = 3
"""How often a client of the retry storm asks again, at once."""


@dataclass(frozen=True)
class Target:
    """What a case has to reach: the name of a figure, and its least (or its largest) value."""

    figure: str
    value: float
    is_most: bool = False

    def is_met(self, figure: float) -> bool:
        """Return whether the figure is good enough."""
        return figure <= self.value if self.is_most else figure >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.is_most else '>='} {self.value:g}"


@dataclass(frozen=True)
class Case:
    """One load. `times` is its rate as a multiple of the capacity.

    `waits` are the seconds that callers wait, in turn; `is_told` says that they tell the server.
    The others hang up. Bursts have a `cv` above 1, the coefficient of variation of the gaps.
    """

    name: str
    about: str
    model: str = "slow"
    transport: str = "rest"
    times: float = 3.0
    waits: tuple[float, ...] = SECOND
    is_told: bool = True
    cv: float = 1.0
    retries: int = 0
    shock: str = ""
    kind: str = "open"
    targets: tuple[Target, ...] = field(default=())
    server: str = "mlserve"

    @property
    def longest_wait(self) -> float:
        """The seconds that the most patient of its callers waits."""
        return max(self.waits)


def _reaches(share: float, steady: float | None = None) -> tuple[Target, ...]:
    late = Target("late", 0, is_most=True)
    wasted = Target("wasted", 0.01, is_most=True)
    after = () if steady is None else (Target("steady_share", steady),)
    return (Target("share", share), *after, late, wasted)


def _leaving() -> list[Case]:
    """Callers that tell no deadline, and hang up."""
    goal, wasted = _reaches(0.90, 0.95), (Target("wasted", 0.01, is_most=True),)
    cases = [
        Case(
            f"leave-{wait:g}s",
            f"leave after {wait:g} s",
            waits=(wait,),
            is_told=False,
            targets=goal,
        )
        for wait in (0.5, 1.0, 3.0)
    ]
    return [
        *cases,
        Case(
            "leave-mixed",
            "leave after 0.5, 1 or 5 s",
            waits=MIXED,
            is_told=False,
            targets=_reaches(0.80),
        ),
        Case("leave-1s-grpc", "cancel after 1 s", transport="grpc", is_told=False, targets=wasted),
        Case(
            "leave-mixed-grpc",
            "cancel after 0.5, 1 or 5 s",
            transport="grpc",
            waits=MIXED,
            is_told=False,
            targets=wasted,
        ),
        Case("leave-1s-10x", "leave after 1 s", times=10, is_told=False, targets=wasted),
        Case("leave-1s-fast", "leave after 1 s", "fast", is_told=False, targets=wasted),
        Case(
            "leave-mixed-fast",
            "leave after 0.5, 1 or 5 s",
            "fast",
            waits=MIXED,
            is_told=False,
            targets=wasted,
        ),
        Case(
            "leave-never", "wait as long as it takes", waits=(60.0,), is_told=False, targets=wasted
        ),
    ]


def _told() -> list[Case]:
    """Callers that tell their deadline."""
    spread = tuple(0.1 + 0.0245 * (number * 79 % 200) for number in range(200))
    return [
        Case("told-1s", "1 s", targets=_reaches(0.97)),
        Case("told-1s-grpc", "1 s", transport="grpc", targets=_reaches(0.95)),
        Case("told-spread", "0.1 to 5 s", waits=spread, targets=_reaches(0.93)),
        Case("told-1s-fast", "1 s", "fast", targets=_reaches(0.93)),
        Case("told-1s-fast-grpc", "1 s", "fast", "grpc"),
        Case("told-1s-10x", "1 s", times=10, targets=_reaches(0.93)),
        Case("told-1s-10x-grpc", "1 s", transport="grpc", times=10, targets=_reaches(0.88)),
        Case("told-1s-10x-fast", "1 s", "fast", times=10),
        Case("told-1s-10x-fast-grpc", "1 s", "fast", "grpc", times=10),
        Case("own-10x-fast", "1 s", "fast", times=10, kind="own", targets=_reaches(0.85)),
        Case(
            "own-10x-fast-grpc", "1 s", "fast", "grpc", times=10, kind="own", targets=_reaches(0.85)
        ),
        Case("own-3x", "1 s", kind="own"),
    ]


def _calm() -> list[Case]:
    """Eight tenths of the capacity: no one may be refused."""
    goal = (Target("attainment", 0.995), Target("late", 0, is_most=True))
    rest = {"times": 0.8, "targets": goal}
    return [
        Case("calm-told", "1 s", **rest),
        Case("calm-told-grpc", "1 s", transport="grpc", **rest),
        Case("calm-told-fast", "1 s", "fast", **rest),
        Case("calm-told-fast-grpc", "1 s", "fast", "grpc", **rest),
        Case("calm-leave", "leave after 1 s", is_told=False, **rest),
        Case("calm-leave-grpc", "cancel after 1 s", transport="grpc", is_told=False, **rest),
        Case("calm-leave-mixed", "leave after 0.5, 1 or 5 s", waits=MIXED, is_told=False, **rest),
        Case("calm-leave-fast", "leave after 1 s", "fast", is_told=False, **rest),
        Case("calm-own-fast", "1 s", "fast", kind="own", **rest),
    ]


def _two() -> list[Case]:
    """Two models that want twice what they can have."""
    shares = (Target("slow_share", 0.9), Target("fast_share", 0.9), Target("late", 0, is_most=True))
    told, leave = "each at twice its share, 1 s", "each at twice its share, leave after 1 s"
    return [
        Case("two-models", told, kind="two", times=2, targets=shares),
        Case("two-models-leave", leave, kind="two", times=2, is_told=False, targets=shares),
    ]


def _burst() -> list[Case]:
    """More calls at once than could ever wait before."""
    about, goal = "500 at once, default deadline", (Target("attainment", 1.0),)
    rest = {"waits": (30.0,), "is_told": False, "kind": "burst", "targets": goal}
    return [
        Case("burst-500", about, "tiny", **rest),
        Case("burst-500-grpc", about, "tiny", "grpc", **rest),
    ]


def _priorities() -> list[Case]:
    about = "a third each sheddable, default, critical; 1 s"
    return [Case("priorities", about, kind="priorities", targets=_reaches(0.97))]


def _closed() -> list[Case]:
    """No overload: what all of this costs."""
    about = "16 clients, one call after the other, no deadline"
    rest = {"waits": (30.0,), "is_told": False, "kind": "closed"}
    return [Case("closed", about, **rest), Case("closed-fast", about, "fast", **rest)]


def _usual() -> list[Case]:
    """The same on FastAPI and uvicorn."""
    rest = {"is_told": False, "about": "leave after 1 s"}
    return [
        Case("usual", server="usual", **rest),
        Case("usual-limited", server="usual, limited", **rest),
    ]


def _shocks() -> list[Case]:
    """Eight tenths of the capacity, and a trigger in the middle."""
    goal = (Target("attainment_after", 0.99), Target("late", 0, is_most=True))
    base = {"times": 0.8, "kind": "shock", "targets": goal}
    bursts = {"cv": 8.0, "kind": "bursts"}
    again = f"1 s, {TRIES} immediate retries"
    leave = f"leave after 1 s, {TRIES} immediate retries"
    return [
        Case("storm", again, shock="stop", retries=TRIES, **base),
        Case("storm-leave", leave, shock="stop", retries=TRIES, is_told=False, **base),
        Case("storm-fast", again, "fast", shock="stop", retries=TRIES, **base),
        Case("stopped", "1 s", shock="stop", **base),
        Case("stopped-leave", "leave after 1 s", shock="stop", is_told=False, **base),
        Case("neighbour", "1 s", shock="neighbour", **base),
        Case("neighbour-leave", "leave after 1 s", shock="neighbour", is_told=False, **base),
        Case("slower", "1 s", "turning", shock="slower", **base),
        Case("slower-leave", "leave after 1 s", "turning", shock="slower", is_told=False, **base),
        Case("reload", "1 s", shock="reload", **base),
        Case("bursts", "1 s, gaps with a CV of 8", **base | bursts),
        Case("bursts-fast", "1 s, gaps with a CV of 8", "fast", **base | bursts),
    ]


_GROUPS = {
    "Callers that tell no deadline": _leaving(),
    "Callers that tell their deadline": _told(),
    "Eight tenths of the capacity": _calm(),
    "Two models": _two(),
    "Priorities": _priorities(),
    "A burst": _burst(),
    "Without overload": _closed(),
    "The usual server": _usual(),
    "Shocks at eight tenths of the capacity": _shocks(),
}
GROUPS = {heading: tuple(case.name for case in cases) for heading, cases in _GROUPS.items()}
"""The names of the cases by the headings under which the page shows them."""
CASES = {case.name: case for cases in _GROUPS.values() for case in cases}
