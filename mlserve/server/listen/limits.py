"""What a server takes and how long it works: told in its metadata and when it starts."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace
from typing import Any

from mlserve.credentials import other_readers
from mlserve.settings import HelpPanel, ServerSettings, described

_log = logging.getLogger(__name__)

_PORTS = 2
_OTHER_FILES = 256
"""Descriptors for everything but connections: the model's files, pipes, the log, and connections
that are closed because there is no room for them."""
_LEAST_OTHER_FILES = 16


def limits_of(settings: ServerSettings, max_queue: int) -> dict[str, Any]:
    """The settings of load and limits by name, as they hold; `max_queue` as the engine chose it."""
    shown = [item.name for item in described() if item.panel in (HelpPanel.LOAD, HelpPanel.LIMITS)]
    return {name: getattr(settings, name) for name in shown} | {"max_queue": max_queue}


def log_limits(settings: ServerSettings, max_queue: int, host: str) -> None:
    """Writes the limits into the log, a line, and what is risky in listening on that address."""
    limits = limits_of(settings, max_queue)
    _log.info("limits: %s", " ".join(f"{name}={value}" for name, value in limits.items()))
    for risk in settings.exposure(host):
        _log.warning("%s", risk)
    token = settings.token_file
    if token is not None and (readers := other_readers(token)) is not None:
        _log.warning("%s may read %s (--token-file): chmod 600 keeps it private", readers, token)


def within_file_limit(settings: ServerSettings) -> ServerSettings:
    """The settings with as many connections as the system lets this process have open files.

    The process' own limit is raised to what is needed, as far as the system allows. What is left
    for connections is divided between both ports; where that is less than was asked for, a warning
    in the log says so. The rest waits in the kernel's queue, or is refused at once.
    """
    places = _PORTS * (1 + settings.speaks_tls)  # a TLS handshake has a place of its own
    wanted = places * settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed >= wanted:
        return settings
    reserved = min(_OTHER_FILES, allowed // 4 + _LEAST_OTHER_FILES)
    most = max(1, (allowed - reserved) // places)
    _log.warning(
        "the system allows this process %d open files: it takes %d connections to a port, not %d "
        "(--max-connections); `ulimit -n %d` would do",
        *(allowed, most, settings.max_connections, wanted),
    )
    return replace(settings, max_connections=most)
