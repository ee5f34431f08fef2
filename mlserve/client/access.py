"""What a client shows to be let in, and whom it trusts: a token, and the files of TLS."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from mlserve.client.endpoint import Endpoint
from mlserve.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS: PEM files. `ca` None trusts whom the system trusts.

    `cert` and `key` are the client's own, for a server that asks for one. `server_name` is the name
    that the server's certificate must have, when that is not the host of the endpoint. Raises
    UsageError when only one of `cert` and `key` is given.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise UsageError(
                "a client's certificate and its key belong together",
                hint="give both: {tls_pair}",
            )


@dataclass(frozen=True, slots=True)
class Access:
    """The token and the TLS files of a client; neither by default."""

    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise UsageError(
                "the token is empty, or has characters other than visible ASCII ones",
                hint="give the token alone, without white space around it",
            )

    def headers(self) -> dict[str, str]:
        """The headers, or gRPC metadata, that carry the token."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def exposure(self, endpoint: Endpoint) -> str | None:
        """The warning to give when the token would cross a network in the clear; else None."""
        if self.token is None or endpoint.is_secure or endpoint.is_loopback:
            return None
        secure = "grpcs" if endpoint.protocol == "grpc" else "https"
        return (
            f"the token goes to {endpoint} in the clear, and who listens can use it: serve with "
            f"--tls-cert and --tls-key, and ask {secure}://{endpoint.address}"
        )
