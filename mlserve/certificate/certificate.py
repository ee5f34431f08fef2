"""The certificate of an artifact: what its manifest says about its golden inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured when the artifact was exported, and what a server here is held to.

    `reference` names the framework that gave the right answers, in fp32. `cases` is the number of
    golden inputs. `tolerance` is the largest difference from the reference that is accepted: of
    scores it is absolute, of other numbers relative to the reference where that is above 1.
    `difference` is the largest that the artifact had at export; `same_labels` is how many of the
    golden inputs got the reference's label, None for a model without labels. `smallest_margin` is
    that between the two best scores of a golden input, None without scores. `made_on` is the CPU,
    or the device, of the export. `own_tolerance` is the largest difference that is accepted from
    what the artifact itself answered at export, where that is to be less than `tolerance`: None if
    it need not be.
    """

    reference: str
    cases: int
    tolerance: float
    difference: float
    same_labels: int | None
    smallest_margin: float | None
    made_on: str
    own_tolerance: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Certificate:
        """Read the output of `to_json`. Raises TypeError and ValueError for anything else."""
        found = cls(**data)
        for name in ("tolerance", "difference", "own_tolerance", "smallest_margin"):
            _require_size(name, getattr(found, name), may_lack=name in _MAY_LACK)
        return found


_MAY_LACK = ("own_tolerance", "smallest_margin")


def _require_size(name: str, value: Any, *, may_lack: bool) -> None:
    """Raise TypeError or ValueError unless it is a number from 0: with NaN every answer holds."""
    if value is None and may_lack:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"the {name} of its certificate is not a number")
    if not 0 <= value < math.inf:
        raise ValueError(f"the {name} of its certificate is {value:g}")
