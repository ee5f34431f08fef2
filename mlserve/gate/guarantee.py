"""A calibration file: the threshold of one model, and what is guaranteed with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlserve.artifact import digest_of
from mlserve.errors import InvalidInput, UsageError, counted, reason_of
from mlserve.gate import conformal
from mlserve.gate.identity import Identity
from mlserve.gate.martingale import BINS, bin_of
from mlserve.replacing import replacing

_FORMAT = 1
_AGAIN = "calibrate this version: mlserve gate calibrate HOLDOUT --risk RISK --accept LABEL"


class Among(StrEnum):
    """The parts that the risk is a share of."""

    BAD = "bad"
    ALL = "all"


class OtherModel(InvalidInput):
    """The calibration holds for another model than the one that answers."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An image of the holdout: whether it is to be accepted, and the score of an accepted label.

    `score` is None if the model's label is not an accepted one.
    """

    is_good: bool
    score: float | None


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A threshold and what it is worth: of parts `among` which, at most `risk` are let in falsely.

    A part is let in if the score of an accepted label is above `threshold`; None lets every
    accepted label in. With `delta` the risk holds with that probability of being wrong about it,
    without it on average. It is for one model, which `artifact` is the digest of. `images` of the
    holdout, among them `bad`, were asked; `counted` of them bear the guarantee, and `false_accepts`
    would be let in falsely; `good_accepted` is the share of good ones that are let in. `bins` are
    those of all scores of the holdout, for the alarm; empty if the risk is among bad parts, as a
    line has another share of them.
    """

    model: str
    version: int | None
    artifact: str
    accept: tuple[str, ...]
    among: Among
    risk: float
    delta: float | None
    threshold: float | None
    images: int
    bad: int
    counted: int
    false_accepts: int
    good_accepted: float | None
    holdout: str
    made: str
    bins: tuple[int, ...] = ()
    digest: str = ""

    def lets_in(self, score: float) -> bool:
        """Return whether the score is above the threshold."""
        return self.threshold is None or score > self.threshold

    def require(self, identity: Identity) -> None:
        """Raise OtherModel, which says why, if another model answers."""
        if identity.artifact == self.artifact:
            return
        mine = Identity(self.model, self.version, self.artifact, None)
        told = "does not say what its digest is" if identity.artifact is None else "answers"
        raise OtherModel(
            f"the calibration holds for {mine}, and {identity} {told}",
            hint=_AGAIN,
        )

    def brief(self) -> dict[str, Any]:
        """Return what an audit line says about it."""
        return {
            "above": self.threshold,
            "among": self.among.value,
            "risk": self.risk,
            "delta": self.delta,
            "sha256": self.digest,
        }

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["digest"]
        return {"format": _FORMAT, **data}

    def save(self, path: Path) -> None:
        """Write the file in one step. Raises UsageError."""
        try:
            with replacing(path) as file:
                file.write(json.dumps(self.to_json(), indent=1) + "\n")
        except OSError as error:
            raise UsageError(
                f"the calibration cannot be saved in {path}: {error.strerror or error}",
                hint="give another path with --save",
            ) from error

    @classmethod
    def read(cls, path: Path) -> Guarantee:
        """Read a file. Raises UsageError for one that cannot be read or is none."""
        try:
            content = path.read_bytes()
            return cls._from_json(json.loads(content), digest_of(content))
        except OSError as error:
            raise UsageError(
                f"the calibration {path} cannot be read: {error.strerror or error}",
                hint="give a file that `mlserve gate calibrate` saved",
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path} is not a calibration of this version of mlserve: {reason_of(error)}",
                hint=_AGAIN,
            ) from error

    @classmethod
    def _from_json(cls, data: Mapping[str, Any], digest: str) -> Guarantee:
        values = dict(data)
        if values.pop("format") != _FORMAT:
            raise ValueError("its format is not known")
        values["among"] = Among(values["among"])
        values["accept"] = tuple(map(str, values["accept"]))
        values["bins"] = tuple(map(int, values["bins"]))
        found = cls(**values, digest=digest)
        if not all(0 <= number < BINS for number in found.bins):
            raise ValueError("its bins are not those of the alarm")
        if found.threshold is not None and not math.isfinite(found.threshold):
            raise ValueError("its threshold is not a number")
        return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a calibration is to keep, and for which labels."""

    accept: tuple[str, ...]
    risk: float
    delta: float | None = None
    among: Among = Among.BAD

    def require_enough(self, images: int, bad: int) -> None:
        """Raise InvalidInput for a holdout too small for the risk, which says what it needs."""
        least = conformal.needed(self.risk, self.delta)
        is_of_bad = self.among is Among.BAD
        have = bad if is_of_bad else images
        kind = "bad image" if is_of_bad else "image"
        if have < least:
            with_delta = "" if self.delta is None else f" with --delta {self.delta:g}"
            raise InvalidInput(
                f"the holdout has {counted(have, kind)}, and a risk of {self.risk:g}{with_delta} "
                f"needs {least}",
                hint=f"add {least - have} more, or allow a higher --risk",
            )
        if not bad:
            raise InvalidInput(
                "the holdout has no bad image, so that it says nothing about false accepts",
                hint="add folders of images that are not to be accepted",
            )


def calibrated(
    wanted: Wanted, scored: Sequence[Scored], identity: Identity, *, holdout: str, made: str
) -> Guarantee:
    """Return the least threshold that keeps the risk. Raises InvalidInput for too few images."""
    bad = [item for item in scored if not item.is_good]
    wanted.require_enough(len(scored), len(bad))
    base = bad if wanted.among is Among.BAD else scored
    most = conformal.allowed(len(base), wanted.risk, wanted.delta)
    losses = [-math.inf if item.is_good else _above_all(item.score) for item in base]
    least = conformal.threshold(losses, most)
    good = [item.score for item in scored if item.is_good]
    let_in = [score for score in good if score is not None and score > least]
    assert identity.artifact is not None
    return Guarantee(
        model=identity.model,
        version=identity.version,
        artifact=identity.artifact,
        accept=wanted.accept,
        among=wanted.among,
        risk=wanted.risk,
        delta=wanted.delta,
        threshold=None if least == -math.inf else least,
        images=len(scored),
        bad=len(bad),
        counted=len(base),
        false_accepts=sum(loss > least for loss in losses),
        good_accepted=len(let_in) / len(good) if good else None,
        holdout=holdout,
        made=made,
        bins=tuple(bin_of(item.score) for item in scored) if wanted.among is Among.ALL else (),
    )


def _above_all(score: float | None) -> float:
    """Return the score; one that no threshold lets in, for another label."""
    return -math.inf if score is None else score
