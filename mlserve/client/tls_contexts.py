"""TLS for the two libraries, made from the same files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve.client.access import Tls
from mlserve.credentials import read_file
from mlserve.errors import UsageError

if TYPE_CHECKING:
    import grpc


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """What httpx speaks TLS with. Raises UsageError for files that are not what they must be."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        # Who names a server's own certificate trusts just this one, as gRPC does too.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        named = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path is not None)
        raise UsageError(
            f"TLS cannot be spoken with {named}: {error}",
            hint="all of them are PEM files, and the key is that of the certificate",
        ) from error
    return context


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """What gRPC speaks TLS with. Raises UsageError as `ssl_context` does."""
    import grpc

    ssl_context(tls)  # gRPC does not say what is wrong with a file
    system = ssl.get_default_verify_paths().cafile
    roots = tls.ca or (None if system is None else Path(system))
    return grpc.ssl_channel_credentials(
        root_certificates=_contents("tls_ca", roots),
        private_key=_contents("tls_key", tls.key),
        certificate_chain=_contents("tls_cert", tls.cert),
    )


def _contents(option: str, path: Path | None) -> bytes | None:
    return None if path is None else read_file(option, path)
