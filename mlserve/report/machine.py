"""Where and with what a report was made, and the command that does it again."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from mlserve import __version__
from mlserve.report.page import Markup, Section, command, facts, paragraph
from mlserve.system import cpu_model, usable_cpus, usable_memory

_GIBIBYTE = 1 << 30
_DECODERS = ("numpy", "pillow", "simplejpeg")
"""What decodes and resizes images in every backend whose pipeline is in Python."""


def how_it_was_made(line: str, more: Iterable[tuple[str, str]]) -> Section:
    """Return the last section: `more` facts, the machine, the versions, the command to repeat it.

    `line` is the command line, empty if there is none.
    """
    known = [*more, *machine(), ("written", now())]
    parts: list[Markup] = [facts(known)]
    if line:
        parts += [paragraph("To do it again, in the same folder:"), command(line)]
    return Section("How it was made", parts)


def machine() -> list[tuple[str, str]]:
    """Return what is known of this machine and of what is installed here."""
    memory = usable_memory() / _GIBIBYTE
    cpus = usable_cpus()
    return [
        ("machine", f"{cpu_model()}, {cpus} CPU{'s'[: cpus != 1]}, {memory:.1f} GiB of memory"),
        ("system", platform.platform()),
        ("versions", ", ".join(_versions())),
    ]


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> Iterable[str]:
    yield f"mlserve {__version__}"
    yield f"Python {platform.python_version()}"
    for name in _DECODERS:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue  # its extra is not installed, and nothing here needed it
