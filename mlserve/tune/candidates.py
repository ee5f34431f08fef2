"""What `mlserve tune` tries: one option at a time, then the two best together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

from mlserve.backend import Backend
from mlserve.load_options import LoadOptions
from mlserve.options import Description, described


def tuned_options() -> list[Description]:
    """Return the load options whose best values depend on the machine."""
    return [item for item in described(LoadOptions) if item.is_tuned]


def tuned_part(options: LoadOptions) -> LoadOptions:
    """Return the tuned options alone, the others at their defaults."""
    return LoadOptions(**{item.name: getattr(options, item.name) for item in tuned_options()})


def candidates(backend: Backend, cpus: int, given: LoadOptions) -> list[LoadOptions]:
    """Return what to try: first `given`, then it with one more option set, each to one value.

    An option that is set in `given` stays as it is. Of each other one, the value that promises most
    comes first, so that a search which runs out of time has tried that.
    """
    free = [
        option
        for option in tuned_options()
        if option.name not in given.changed and backend.regards(option.name)
    ]
    each = [
        [replace(given, **{option.name: value}) for value in _values(option, backend, cpus)]
        for option in free
    ]
    return [given, *filter(None, chain.from_iterable(zip_longest(*each)))]


def combined(given: LoadOptions, best: Sequence[LoadOptions]) -> LoadOptions | None:
    """Return the first two of `best` as one candidate; None if they set the same option."""
    if len(best) < 2:  # noqa: PLR2004  it takes two
        return None
    one, other = (_beyond(given, options) for options in best[:2])
    return None if one.keys() & other.keys() else replace(given, **one, **other)


def _beyond(given: LoadOptions, options: LoadOptions) -> dict[str, Any]:
    return {k: v for k, v in options.changed.items() if getattr(given, k) != v}


def _values(option: Description, backend: Backend, cpus: int) -> Sequence[Any]:
    """Return the values to try: of a number, as many as CPUs, half, a quarter, and 1.

    Of a text, those that the backend has here, if there are several.
    """
    if option.kind is int:
        return sorted({cpus, cpus // 2, cpus // 4, 1} - {0}, reverse=True)
    here = backend.values_here(option.name)
    return here if len(here) > 1 else ()
