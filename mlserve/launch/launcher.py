"""The names of the launchers, apart from what they need: the command line lists them."""

from __future__ import annotations

from enum import StrEnum


class Launcher(StrEnum):
    """What runs the server: mlserve's own, one of another maker, or whichever is there."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    NATIVE = "native"
