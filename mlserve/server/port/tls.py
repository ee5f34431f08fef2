"""TLS on both ports, from the same files."""

from __future__ import annotations

import grpc

from mlserve.credentials import read_file
from mlserve.settings import ServerSettings
from mlserve.tls_files import tls_context


def grpc_credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """The credentials of the gRPC port; None where it speaks no TLS.

    gRPC itself takes TLS 1.2 or newer. Raises UsageError for files that do not fit: gRPC would
    only fail each handshake.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    tls_context(settings)
    pair = read_file("tls_key", settings.tls_key), read_file("tls_cert", settings.tls_cert)
    ca = settings.tls_client_ca
    return grpc.ssl_server_credentials(
        [pair],
        root_certificates=None if ca is None else read_file("tls_client_ca", ca),
        require_client_auth=ca is not None,
    )
