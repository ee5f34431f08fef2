"""What admission knows of a caller, and how important its call is."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Priority(IntEnum):
    """How important a call is. Under overload, the lower is refused first."""

    SHEDDABLE = 0
    """May be refused whenever there is more to do than can be done."""
    DEFAULT = 1
    CRITICAL = 2
    """Is refused last."""

    @property
    def in_words(self) -> str:
        """The name as it stands on the wire and the command line: `sheddable`."""
        return self.name.lower()


class Caller(NamedTuple):
    """What tells one kind of caller from another, as far as the request shows it.

    `transport` is rest, grpc or direct. `agent` is the user agent up to the first space, such as
    `curl/8.14.1`, cut to 64 characters; `address` is the peer's IP address, or empty for a UNIX
    socket; `token` is the name of its token, empty without one. No field is the secret itself.
    """

    transport: str = ""
    agent: str = ""
    address: str = ""
    token: str = ""


UNKNOWN_CALLER = Caller()
