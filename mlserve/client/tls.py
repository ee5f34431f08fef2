"""TLS for HTTP and gRPC from the same files, and errors of failed handshakes."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve.client.endpoint import Endpoint, Tls
from mlserve.credentials import read_file
from mlserve.errors import AccessDenied, UsageError, readable

if TYPE_CHECKING:
    import grpc

_ASKS_FOR_A_CERTIFICATE = re.compile(
    r"alert.{0,5}(certificate|bad.certificate|unknown.ca|handshake)|certificate.required", re.I
)
_FAILURES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"wrong.version.number|http.request|record.layer.failure", re.I),
        "the server at {endpoint} does not speak TLS: {why}",
        "ask {plain}://{address}, without TLS files",
    ),
    (
        re.compile(r"host ?name|(ip.address|domain).mismatch|not valid for", re.I),
        "the certificate of the server at {endpoint} is for another host: {why}",
        "ask the server by a name that is in its certificate",
    ),
    (
        re.compile(r"expired|not.yet.valid", re.I),
        "the certificate of the server at {endpoint} is out of date: {why}",
        "renew the server's certificate, and check this machine's clock",
    ),
    (
        re.compile(r"certificate.verify.failed|self.signed|local issuer", re.I),
        "the certificate of the server at {endpoint} is not trusted: {why}",
        "name the authority that signed it (or the certificate itself) with {{tls_ca FILE}}",
    ),
)


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS context of HTTP. Raises UsageError for invalid files."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        # Accept a server's own certificate as `ca`: trust exactly that one, as gRPC does.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        named = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path is not None)
        raise UsageError(
            f"TLS cannot use {named}: {error}",
            hint="they must be PEM files, and the key must belong to the certificate",
        ) from error
    return context


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Return gRPC's TLS credentials. Raises UsageError as `ssl_context` does."""
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


def handshake_failure(endpoint: Endpoint, why: str) -> UsageError | None:
    """Return the error that a library's message stands for; None if it is not about TLS."""
    if not endpoint.is_secure:
        return None
    if _ASKS_FOR_A_CERTIFICATE.search(why):
        return AccessDenied(
            f"the server at {endpoint} requires a client certificate: {readable(why)}",
            hint="give one that it trusts with {tls_pair}",
        )
    plain = "grpc" if endpoint.protocol == "grpc" else "http"
    for pattern, message, hint in _FAILURES:
        if pattern.search(why):
            shown = message.format(endpoint=endpoint, why=readable(why))
            return UsageError(shown, hint=hint.format(plain=plain, address=endpoint.address))
    return None


def certificate_refused(endpoint: Endpoint, *, has_certificate: bool) -> AccessDenied:
    """Return the error for a server that requests a certificate and rejects what it gets."""
    if has_certificate:
        return AccessDenied(
            f"the server at {endpoint} does not accept the certificate of this client",
            hint="give one that its authority signed and that has not expired, with {tls_pair}",
        )
    return AccessDenied(
        f"the server at {endpoint} requires a client certificate, and none was given",
        hint="give one that it trusts with {tls_pair}",
    )


def closing_hint(endpoint: Endpoint, *, has_certificate: bool) -> str:
    """Return a hint on what may be wrong with TLS if a server closes without a reason."""
    if not endpoint.is_secure:
        secure = "grpcs" if endpoint.protocol == "grpc" else "https"
        return f"if it speaks TLS, ask {secure}://{endpoint.address}"
    if has_certificate:
        return "it may not trust the certificate of {tls_cert}"
    return "if it requires a client certificate: {tls_pair}"
