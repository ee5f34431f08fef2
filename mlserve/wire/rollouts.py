"""What a server says of shadows and splits: the JSON of GET /mlserve/shadow.

The server writes it with `Rollouts.to_json`; `status` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from mlserve.errors import readable
from mlserve.proportions import wilson

INTERVAL = "Wilson, 95 %"
"""What the interval of a share is."""


def percent(share: float) -> str:
    """Return a share in words: `5 %`."""
    return f"{100 * share:g} %"


def how_to_go_on(version: int) -> str:
    """Return what to do about a split of that version that is stopped."""
    return (
        "it stays stopped until the split is changed, for example to a mended version, or the "
        f"server is started again; `mlserve models use {version}` gives the version all requests"
    )


class RolloutState(StrEnum):
    """What a second version does. One that is in use answers all requests: nothing is compared."""

    LOADING = "loading"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    IN_USE = "in use"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How often two versions were asked the same, and what came of it.

    `agrees` and `differs` were answered by both; `same_top` of them have the same best classes in
    any order, of the `tops` that have classes. `failed` were not answered by the other, `dropped`
    were not asked, as there was no room.
    """

    agrees: int = 0
    differs: int = 0
    failed: int = 0
    dropped: int = 0
    tops: int = 0
    same_top: int = 0

    @property
    def compared(self) -> int:
        """How many were answered by both."""
        return self.agrees + self.differs

    @property
    def share(self) -> float:
        """The part that differs; 0 if nothing was compared."""
        return self.differs / self.compared if self.compared else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the share: `INTERVAL`."""
        return wilson(self.differs, self.compared)

    def __str__(self) -> str:
        low, high = self.interval
        differ = f"{self.differs} differ"
        if self.compared:
            differ += f" ({self.share:.2%}, {INTERVAL}: {low:.2%} to {high:.2%})"
        return f"{self.compared} compared, {differ}, {self.failed} failed, {self.dropped} dropped"

    def to_json(self) -> dict[str, Any]:
        """Return the counts with the share and its interval, which `from_json` does not read."""
        low, high = self.interval
        about = {"share": round(self.share, 6), "interval": [round(low, 6), round(high, 6)]}
        return {**asdict(self), **about, "interval_is": INTERVAL}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """Read what `to_json` wrote. Raises KeyError, TypeError, or ValueError."""
        return cls(*(int(data[item.name]) for item in fields(cls)))


@dataclass(frozen=True, slots=True)
class Side:
    """What one version answered: its best class and that one's score; None where it has none."""

    label: str | None = None
    score: float | None = None

    def __str__(self) -> str:
        score = "" if self.score is None else f" {self.score:.3f}"
        return f"{readable(self.label or '-')}{score}"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A request that two versions answered otherwise: `served` is what the caller got.

    `at` is the time in ISO 8601. `what` says what differs.
    """

    request_id: str
    at: str
    signature: str
    what: str
    served: Side
    other: Side

    def __str__(self) -> str:
        return (
            f"{self.at} {readable(self.request_id)}: served {self.served}, other {self.other} "
            f"({readable(self.what)})"
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Disagreement:
        """Read what `asdict` wrote. Raises KeyError or TypeError."""
        return cls(
            str(data["request_id"]),
            str(data["at"]),
            str(data["signature"]),
            str(data["what"]),
            Side(**data["served"]),
            Side(**data["other"]),
        )


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What was asked of another version or server beside the one that answers.

    `asked` says in words what that is. `last` are the latest disagreements, the newest last.
    """

    asked: str
    counts: Comparison
    signatures: Mapping[str, Comparison]
    last: tuple[Disagreement, ...] = ()
    error: str = ""
    error_at: str = ""
    """The latest failure, and when it was; empty if there was none."""

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`."""
        return {
            "asked": self.asked,
            **self.counts.to_json(),
            "signatures": {name: each.to_json() for name, each in self.signatures.items()},
            "last": [asdict(each) for each in self.last],
            "error": self.error,
            "error_at": self.error_at,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mirrored:
        """Read what `to_json` wrote. Raises KeyError, TypeError, ValueError, AttributeError."""
        return cls(
            str(data["asked"]),
            Comparison.from_json(data),
            {str(k): Comparison.from_json(each) for k, each in data["signatures"].items()},
            tuple(map(Disagreement.from_json, data["last"])),
            str(data["error"]),
            str(data["error_at"]),
        )

    def error_in_words(self) -> str:
        """Return the latest failure, with its time where it has one."""
        at = f" ({self.error_at})" if self.error_at else ""
        return f"{readable(self.error)}{at}"


@dataclass(frozen=True, slots=True)
class Shadow:
    """The shadow of a model. `served` is the version whose answers are compared with its own.

    It is None until there is one.
    """

    model: str
    state: RolloutState
    mirrored: Mirrored
    served: int | None = None

    def lines(self) -> list[str]:
        """Return what `mlserve status` prints of it."""
        told = self.mirrored
        if self.state is RolloutState.IN_USE:
            what = f"{told.asked} of {self.model} is the one in use, so there is nothing to compare"
            return [f"shadow: {what} (in use)"]
        beside = self.model if self.served is None else f"version {self.served} of {self.model}"
        lines = [f"shadow: {told.asked} beside {beside} ({self.state}): {told.counts}"]
        if told.error:
            is_off = self.state is RolloutState.FAILED
            what = "WARNING: the shadow is not asked" if is_off else "shadow: last failure"
            lines.append(f"{what}: {told.error_in_words()}")
        return lines + [f"  {each}" for each in told.last]

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`."""
        about = {"model": self.model, "state": self.state.value, "served": self.served}
        return {**about, **self.mirrored.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shadow:
        """Read what `to_json` wrote; raises as `Mirrored.from_json`."""
        state, served = RolloutState(data["state"]), data["served"]
        mirrored = Mirrored.from_json(data)
        return cls(str(data["model"]), state, mirrored, None if served is None else int(served))


@dataclass(frozen=True, slots=True)
class Arm:
    """What became of the requests that a split gave to one version.

    `answered` of those `asked` were answered in time; that share is the goodput. The times are of
    the last of them, in milliseconds, None without any.
    """

    version: int
    asked: int = 0
    answered: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def goodput(self) -> float | None:
        """The share that was answered in time; None if nothing was asked."""
        return self.answered / self.asked if self.asked else None

    def __str__(self) -> str:
        if self.goodput is None:
            return f"version {self.version}: nothing asked"
        low, high = wilson(self.answered, self.asked)
        times = (
            "" if self.p50_ms is None else f", p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"
        )
        return (
            f"version {self.version}: goodput {self.goodput:.2%} ({low:.2%} to {high:.2%}) of "
            f"{self.asked}{times}; {self.late} late, {self.refused} refused, {self.failed} failed"
        )

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`, and the goodput with its interval."""
        low, high = wilson(self.answered, self.asked)
        about = {"goodput": self.goodput, "interval": [round(low, 6), round(high, 6)]}
        return {**asdict(self), **about, "interval_is": INTERVAL}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Arm:
        """Read what `to_json` wrote. Raises KeyError or TypeError."""
        return cls(**{item.name: data[item.name] for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Split:
    """The split of a model: `version` gets `share` of the requests that name none.

    `arms` are first the version in use, then the other. `checked` compares the two. `why` says what
    stopped it, and `stopped_at` when, in ISO 8601; both are empty unless it is stopped.
    """

    model: str
    version: int
    share: float
    state: RolloutState
    arms: tuple[Arm, ...]
    checked: Mirrored
    why: str = ""
    stopped_at: str = ""
    error: str = ""
    """Why the version is not there, if it failed to load."""

    def lines(self) -> list[str]:
        """Return what `mlserve status` prints of it."""
        lines = [f"split: version {self.version} of {self.model} {self._gets()} ({self.state})"]
        if self.why:
            lines.append(f"WARNING: the split is stopped since {self.stopped_at}: {self.why}")
            lines.append(f"split: {how_to_go_on(self.version)}")
        if self.error:
            lines.append(f"WARNING: {readable(self.error)}")
        lines += [f"split: {arm}" for arm in self.arms]
        lines.append(f"split: asked beside version {self.version}: {self.checked.counts}")
        if self.checked.error:
            lines.append(f"split: last failure: {self.checked.error_in_words()}")
        return lines + [f"  {each}" for each in self.checked.last]

    def _gets(self) -> str:
        """Return what part of the requests the version gets now."""
        if self.state is RolloutState.IN_USE:
            return "is the one in use, and gets all requests"
        if self.state in (RolloutState.STOPPED, RolloutState.FAILED):
            return "gets none of the requests that name no version"
        what = f"gets {percent(self.share)} of the requests that name no version"
        return what if self.state is RolloutState.RUNNING else f"{what}, once it is loaded"

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`."""
        return {
            "model": self.model,
            "version": self.version,
            "share": self.share,
            "state": self.state.value,
            "arms": [arm.to_json() for arm in self.arms],
            "checked": self.checked.to_json(),
            "why": self.why,
            "stopped_at": self.stopped_at,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Split:
        """Read what `to_json` wrote; raises as `Mirrored.from_json`."""
        return cls(
            str(data["model"]),
            int(data["version"]),
            float(data["share"]),
            RolloutState(data["state"]),
            tuple(map(Arm.from_json, data["arms"])),
            Mirrored.from_json(data["checked"]),
            *(str(data[name]) for name in ("why", "stopped_at", "error")),
        )


@dataclass(frozen=True, slots=True)
class Rollouts:
    """All shadows and splits of a server, each of one model."""

    shadows: tuple[Shadow, ...] = ()
    splits: tuple[Split, ...] = ()

    def lines(self) -> list[str]:
        """Return what `mlserve status` prints of them."""
        told = [each.lines() for each in self.shadows] + [each.lines() for each in self.splits]
        return [line for lines in told for line in lines]

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`: objects with the model's name as key."""
        return {
            "shadow": {each.model: each.to_json() for each in self.shadows},
            "split": {each.model: each.to_json() for each in self.splits},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rollouts:
        """Read what `to_json` wrote; raises as `Mirrored.from_json`."""
        return cls(
            tuple(map(Shadow.from_json, data["shadow"].values())),
            tuple(map(Split.from_json, data["split"].values())),
        )
