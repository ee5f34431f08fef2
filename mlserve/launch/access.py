"""How to be let in by a server that `mlserve up` started: what its record says of it."""

from __future__ import annotations

import _ssl
import os
from pathlib import Path

from mlserve.client.access import Tls
from mlserve.credentials import read_token
from mlserve.launch.state import ServerRecord

CERT_VARIABLE = "MLSERVE_TLS_CERT"
KEY_VARIABLE = "MLSERVE_TLS_KEY"
"""The environment's names for the files that show a server who its client is."""
_NAMES = ("DNS", "IP Address")
"""The kinds of names in a certificate that a host can have."""


def token_of(record: ServerRecord) -> str | None:
    """The token of that server. Raises UsageError for a file that cannot be read."""
    path = record.settings.token_file
    return None if path is None else read_token(path).decode()


def tls_of(record: ServerRecord) -> Tls | None:
    """How to speak TLS to that server; None when it does not.

    The certificate that it was started with is the one that is trusted, whoever signed it: nobody
    else has its key.
    """
    certificate = record.settings.tls_cert
    if certificate is None:
        return None
    cert, key = _client_certificate(record)
    name = _server_name(certificate, record.reachable_host)
    return Tls(ca=certificate, cert=cert, key=key, server_name=name)


def _client_certificate(record: ServerRecord) -> tuple[Path | None, Path | None]:
    """The client's own, of the environment; else the server's, which its authority may know too."""
    cert, key = os.environ.get(CERT_VARIABLE), os.environ.get(KEY_VARIABLE)
    if cert and key:
        return Path(cert), Path(key)
    settings = record.settings
    if settings.tls_client_ca is None:
        return None, None
    return settings.tls_cert, settings.tls_key


def _server_name(certificate: Path, host: str) -> str | None:
    """A name in the certificate to expect instead of the host; None when the host is in it.

    A certificate for the machine's public name is asked for at a loopback address here.
    """
    try:
        # The one reader of certificates in the standard library has no public name.
        facts = _ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]  # noqa: SLF001
    except (OSError, AttributeError):
        return None  # who speaks TLS with it says what is wrong
    names = [name for kind, name in facts.get("subjectAltName", ()) if kind in _NAMES]
    return None if host in names or not names else names[0].replace("*", "mlserve")
