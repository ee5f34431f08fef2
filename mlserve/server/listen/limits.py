"""Report a server's limits in its metadata and log, and fit them to the open-file limit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlserve.credentials import other_readers
from mlserve.options import HelpPanel, described
from mlserve.settings import ServerSettings
from mlserve.system import allow_open_files

_log = logging.getLogger(__name__)

CONNECTION_LIMITS = ("header_timeout", "max_connections")
"""Settings that a port enforces: they do not hold where another server owns the port."""
_PORTS = 2
_OTHER_FILES = 256
"""Descriptors for everything but served connections.

Model files, pipes, the log, and connections being closed because there is no room for them.
"""
_LEAST_OTHER_FILES = 16


def limits_of(settings: ServerSettings, *, has_ports: bool = True) -> dict[str, Any]:
    """Return the effective load and limit settings by name.

    A server without ports of its own does not limit connections.
    """
    shown = [
        item.name
        for item in described(ServerSettings)
        if item.panel in (HelpPanel.LOAD, HelpPanel.LIMITS)
        and (has_ports or item.name not in CONNECTION_LIMITS)
    ]
    values = {name: getattr(settings, name) for name in shown}
    return values | {"max_queue_bytes": settings.queue_bytes}


def log_limits(settings: ServerSettings, limits: Mapping[str, Any], host: str) -> None:
    """Log the limits in one line, and warn of the risks of listening on that address."""
    _log.info("limits: %s", " ".join(f"{name}={value}" for name, value in limits.items()))
    for risk in settings.exposure(host):
        _log.warning("%s", risk)
    token = settings.token_file
    if token is not None and (readers := other_readers(token)) is not None:
        _log.warning("%s can read %s (--token-file): chmod 600 makes it private", readers, token)


def within_file_limit(settings: ServerSettings) -> ServerSettings:
    """Return the settings, with `max_connections` lowered to what the open-file limit allows.

    The process' soft limit is raised as needed, as far as the system allows. What remains for
    connections is divided between both ports; if that is less than requested, a warning is logged.
    Further connections wait in the kernel's queue, or are refused at once.
    """
    places = _PORTS * (1 + settings.speaks_tls)  # TLS handshakes are counted apart from connections
    wanted = places * settings.max_connections + _OTHER_FILES
    allowed = allow_open_files(wanted)
    if allowed >= wanted:
        return settings
    reserved = min(_OTHER_FILES, allowed // 4 + _LEAST_OTHER_FILES)
    most = max(1, (allowed - reserved) // places)
    _log.warning(
        "the system allows this process %d open files: it accepts %d connections on each port, "
        "not %d (--max-connections); `ulimit -n %d` would be enough",
        *(allowed, most, settings.max_connections, wanted),
    )
    return replace(settings, max_connections=most)
