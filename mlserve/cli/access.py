"""What a command shows to the server to be let in, and whom it trusts: options and environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.credentials import TOKEN_VARIABLE

if TYPE_CHECKING:
    from mlserve.client import Tls
    from mlserve.deadline import Deadline
    from mlserve.launch.state import ServerRecord

_PANEL = "Access"

TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TOKEN_FILE",
        rich_help_panel=_PANEL,
        help="File with the server's token. Default: that of the running server, else the token "
        f"in {TOKEN_VARIABLE}.",
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TLS_CA",
        rich_help_panel=_PANEL,
        help="PEM file with the authority that signed the server's certificate, or with that "
        "certificate. Default: the running server's, else whom the system trusts.",
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TLS_CERT",
        rich_help_panel=_PANEL,
        help="PEM file with the certificate to show to a server that asks for one.",
    ),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TLS_KEY",
        rich_help_panel=_PANEL,
        help="PEM file with the key of that certificate.",
    ),
]


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """What the user gave of a token and of TLS."""

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def to_endpoint(self, deadline: Deadline) -> tuple[str | None, Tls | None]:
        """The token and the TLS files for a server that the user names.

        Raises UsageError, and DeadlineExceeded when the file system does not answer.
        """
        return self._token(None, deadline), self._tls()

    def to_recorded(
        self, record: ServerRecord, deadline: Deadline
    ) -> tuple[str | None, Tls | None]:
        """The token and the TLS files for a server of `mlserve up`; what is given goes first.

        Raises as `to_endpoint`.
        """
        token = self._token(record.settings.token_file, deadline)
        recorded, given = _recorded_tls(record, deadline), self._tls()
        if recorded is None or given is None:
            return token, recorded
        if given.ca is not None:
            return token, given
        return token, replace(recorded, cert=given.cert, key=given.key)

    def _token(self, recorded: Path | None, deadline: Deadline) -> str | None:
        path = self.token_file or recorded
        if path is None:
            return os.environ.get(TOKEN_VARIABLE)
        from mlserve.credentials import read_token
        from mlserve.system import run_within

        return run_within(deadline, f"reading {path}", lambda: read_token(path)).decode()

    def _tls(self) -> Tls | None:
        if self.tls_ca is None and self.tls_cert is None and self.tls_key is None:
            return None
        from mlserve.client import Tls

        return Tls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)


def _recorded_tls(record: ServerRecord, deadline: Deadline) -> Tls | None:
    if not record.settings.speaks_tls:
        return None
    from mlserve.launch.access import tls_of
    from mlserve.system import run_within

    doing = f"reading {record.settings.tls_cert}"
    return run_within(deadline, doing, lambda: tls_of(record))
