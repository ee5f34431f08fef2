"""Run all checks of `mlserve doctor` concurrently, in the order of its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from mlserve.config.document import Document
from mlserve.doctor import machine, software
from mlserve.doctor.configuration import look_at_configuration
from mlserve.doctor.finding import Finding
from mlserve.errors import MlserveError

Look = Callable[[], Iterable[Finding]]


def examine(
    *,
    is_deep: bool = False,
    document: Document | None = None,
    problem: MlserveError | None = None,
) -> list[Finding]:
    """Return all findings. `is_deep` also starts other processes: imports, and `pip check`.

    `document` is the configuration file that counts here, `problem` why it cannot be read.
    """
    looks: list[Look] = [software.look_at_packages, software.look_at_plugins]
    looks += [software.look_deeper] if is_deep else []
    looks += [
        machine.look_at_launchers,
        machine.look_at_resources,
        machine.look_at_files,
        partial(look_at_configuration, document, problem),
        machine.look_at_network,
    ]
    with ThreadPoolExecutor(max_workers=len(looks)) as pool:
        return [found for findings in pool.map(_all, looks) for found in findings]


def _all(look: Look) -> list[Finding]:
    return list(look())
