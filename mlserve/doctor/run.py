"""All findings, in the order of the areas; what waits for others runs beside the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from mlserve.doctor import machine, software
from mlserve.doctor.finding import Finding

Look = Callable[[], Iterable[Finding]]


def examine(*, is_deep: bool = False) -> list[Finding]:
    """Everything that was found. `is_deep` imports the runtimes too, in other processes."""
    looks: list[Look] = [software.look, software.look_at_plugins]
    looks += [software.import_each] if is_deep else []
    looks += [
        machine.look_at_launchers,
        machine.look,
        machine.look_at_places,
        machine.look_at_network,
    ]
    with ThreadPoolExecutor(max_workers=len(looks)) as pool:
        return [found for findings in pool.map(_all, looks) for found in findings]


def _all(look: Look) -> list[Finding]:
    return list(look())
