"""How the commands of this machine get into a server of `mlserve up`: its token, and TLS."""

from __future__ import annotations

import os
from pathlib import Path

from mlserve.client.endpoint import Tls
from mlserve.credentials import names_in_certificate, read_token
from mlserve.launch.records import ServerRecord
from mlserve.settings import ServerSettings

CERT_VARIABLE = "MLSERVE_TLS_CERT"
KEY_VARIABLE = "MLSERVE_TLS_KEY"
"""The environment's names for the files that show a server who its client is."""


def token_of(record: ServerRecord) -> str | None:
    """The token of that server. Raises UsageError for a file that cannot be read."""
    path = record.serving.settings.token_file
    return None if path is None else read_token(path).decode()


def tls_of(record: ServerRecord) -> Tls | None:
    """How to speak TLS to that server; None when it does not.

    The certificate that it was started with is the one that is trusted, whoever signed it: nobody
    else has its key.
    """
    certificate = record.serving.settings.tls_cert
    if certificate is None:
        return None
    cert, key = _client_certificate(record.serving.settings)
    return Tls(ca=certificate, cert=cert, key=key, server_name=record.tls_server_name)


def name_to_expect(settings: ServerSettings, host: str) -> str | None:
    """A name in the server's certificate to expect in place of the host; None if the host is in it.

    A certificate for the machine's public name is asked for at a loopback address here.
    """
    names = names_in_certificate(settings) if settings.speaks_tls else []
    return None if host in names or not names else names[0].replace("*", "mlserve")


def _client_certificate(settings: ServerSettings) -> tuple[Path | None, Path | None]:
    """The client's own, of the environment; else the server's, which its authority may know too."""
    cert, key = os.environ.get(CERT_VARIABLE), os.environ.get(KEY_VARIABLE)
    if cert and key:
        return Path(cert), Path(key)
    if settings.tls_client_ca is None:
        return None, None
    return settings.tls_cert, settings.tls_key
