"""Token and TLS settings that local commands use to reach a server of `mlserve up`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve.credentials import names_in_certificate, read_token
from mlserve.launch.records import ServerRecord
from mlserve.settings import ServerSettings

if TYPE_CHECKING:
    from mlserve.client import Tls

CERT_VARIABLE = "MLSERVE_TLS_CERT"
KEY_VARIABLE = "MLSERVE_TLS_KEY"
"""Environment variables that name the client's certificate and key."""


def token_of(record: ServerRecord) -> str | None:
    """Return the server's token. Raises UsageError for a file that cannot be read."""
    path = record.serving.settings.token_file
    return None if path is None else read_token(path).decode()


def tls_of(record: ServerRecord) -> Tls | None:
    """Return how to speak TLS to the server, or None if it does not use TLS.

    Trusts exactly the certificate that the server was started with, whoever signed it: no other
    process has its key.
    """
    certificate = record.serving.settings.tls_cert
    if certificate is None:
        return None
    from mlserve.client import Tls  # most servers have none

    cert, key = _client_certificate(record.serving.settings)
    return Tls(ca=certificate, cert=cert, key=key, server_name=record.tls_server_name)


def name_to_expect(settings: ServerSettings, host: str) -> str | None:
    """Return the certificate name to expect instead of the host; None if it covers the host.

    Needed because a certificate for the machine's public name is checked at a loopback address.
    """
    names = names_in_certificate(settings) if settings.speaks_tls else []
    return None if host in names or not names else names[0].replace("*", "mlserve")


def _client_certificate(settings: ServerSettings) -> tuple[Path | None, Path | None]:
    """Return the environment's certificate, else the server's, which its own CA may accept too."""
    cert, key = os.environ.get(CERT_VARIABLE), os.environ.get(KEY_VARIABLE)
    if cert and key:
        return Path(cert), Path(key)
    if settings.tls_client_ca is None:
        return None, None
    return settings.tls_cert, settings.tls_key
