"""The objects that a fitted estimator is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def parts_of(estimator: object) -> Iterator[tuple[Any, Any]]:
    """Yield each object in the estimator, itself included, with the object that holds it."""
    seen: dict[int, object] = {}
    open_ends: list[tuple[object, object]] = [(estimator, None)]
    while open_ends:
        part, holder = open_ends.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type | None):
            continue
        seen[id(part)] = part
        inside = list(_inside(part))
        is_container = isinstance(part, list | tuple | dict | np.ndarray)
        if not is_container:
            yield part, holder
        open_ends.extend((each, holder if is_container else part) for each in inside)


def _inside(part: object) -> Iterable[object]:
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, list | tuple):
        return part
    if isinstance(part, np.ndarray):
        return part.flat if part.dtype == object else ()
    return vars(part).values() if hasattr(part, "__dict__") else ()
