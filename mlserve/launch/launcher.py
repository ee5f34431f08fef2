"""The names of the launchers, apart from what they need: the command line lists them."""

from __future__ import annotations

from enum import StrEnum


class Launcher(StrEnum):
    """What runs the server: mlserve's own, another maker's, a container, or whichever is there."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    NATIVE = "native"
    DOCKER = "docker"


class ServerKind(StrEnum):
    """Which server is in an image: the runtime's own, mlserve's, or (auto) the first if known."""

    AUTO = "auto"
    NATIVE = "native"
    EMBEDDED = "embedded"
