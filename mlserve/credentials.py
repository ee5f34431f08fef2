"""Read and check a server's token and TLS files."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlserve.errors import UsageError
from mlserve.hints import did_you_mean
from mlserve.options import flag_of
from mlserve.settings import ServerSettings
from mlserve.signing import require_key
from mlserve.tokens import Token, tokens_in

_READERS = {0o004: "every user of this machine", 0o040: "every user in its group"}
TOKEN_VARIABLE = "MLSERVE_TOKEN"  # noqa: S105  the name of a variable
"""The variable that clients read their token from; servers never receive it."""


def read_token(path: Path, name: str = "token_file") -> bytes:
    """Read the token that a client sends: the first one of the file, which setting `name` names.

    Raises UsageError.
    """
    return _read_tokens(path, name)[0].secret


def tokens_of(settings: ServerSettings) -> tuple[Token, ...]:
    """Return the tokens that the server takes; none where it requires none.

    Raises UsageError for a bad file, and for a share of a token that is not in it.
    """
    path = settings.token_file
    if path is None:
        return ()
    tokens = _read_tokens(path)
    _require_named(settings, path, sorted({token.name for token in tokens} - {""}))
    return tokens


def _read_tokens(path: Path, name: str = "token_file") -> tuple[Token, ...]:
    return tokens_in(read_file(name, path), f"{path} ({flag_of(name)})")


def _require_named(settings: ServerSettings, path: Path, names: list[str]) -> None:
    """Raise UsageError unless each share is that of a token in the file."""
    for name in settings.shares:
        if name not in names:
            listed = f"its tokens are {', '.join(names)}" if names else "name it: NAME = TOKEN"
            raise UsageError(
                f"{flag_of('max_share')} has a share for {name}, and {path} "
                f"({flag_of('token_file')}) has no token of that name",
                hint=did_you_mean(name, names) + listed,
            )


def other_readers(path: Path) -> str | None:
    """Return which users besides its owner may read the file; None if there are none."""
    mode = path.stat().st_mode
    return next((who for bit, who in _READERS.items() if mode & bit), None)


def read_file(name: str, path: Path) -> bytes:
    """Return the content of the file that this setting names. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} ({flag_of(name)}) cannot be read: {error.strerror or error}",
            hint="give the path of a file that this user may read",
        ) from error


def check_files(settings: ServerSettings) -> None:
    """Raise UsageError unless every file and folder that the settings name is usable.

    `mlserve up` calls this before it starts a server, so that the error reaches the terminal.
    """
    tokens_of(settings)
    if settings.shadow_token_file is not None:
        read_token(settings.shadow_token_file, "shadow_token_file")
    if settings.speaks_tls:
        tls_context(settings)
    if settings.require_signature is not None:
        require_key(settings.require_signature, flag_of("require_signature"))
    if settings.record is not None:
        from mlserve.recording.folder import require_writable  # clients have no recordings

        require_writable(settings.record)


def tls_context(settings: ServerSettings, protocol: str = "http/1.1") -> ssl.SSLContext:
    """Build a context with the server's certificate, TLS 1.2 or newer; mutual TLS with a client CA.

    `protocol` is offered by ALPN. Raises UsageError for an invalid file, or a key that does not
    match the certificate.
    """
    cert, key, ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None or key is None:
        raise ValueError("no certificate in the settings")
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        read_file(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"{cert} ({flag_of('tls_cert')}) and {key} ({flag_of('tls_key')}) are not a "
            f"certificate and its key: {_reason(error)}",
            hint="both are PEM files; the key is the certificate's own, without a password",
        ) from error
    if ca is not None:
        _trust(context, ca)
    return context


def names_in_certificate(settings: ServerSettings) -> list[str]:
    """Return the hosts that the server's certificate is for; empty if they cannot be read.

    The standard library decodes a certificate only when a peer presents it. So this function runs
    both ends of a handshake, in memory.
    """
    server, client = tls_context(settings), ssl.create_default_context(cafile=settings.tls_cert)
    server.verify_mode = ssl.CERT_NONE
    client.check_hostname = False
    client.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN  # the file need not include its CA
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (asking, answering, asking):
        with suppress(ssl.SSLError):  # it waits for the other end, or the certificate has expired
            end.do_handshake()
    try:
        facts: dict[str, Any] = asking.getpeercert() or {}
    except ValueError:
        return []  # the handshake failed: a client that connects is told why
    return [name for kind, name in facts.get("subjectAltName", ()) if kind in _HOST_KINDS]


_HOST_KINDS = ("DNS", "IP Address")
"""The kinds of names in a certificate that can be a host."""


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    read_file("tls_client_ca", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UsageError(
            f"{ca} ({flag_of('tls_client_ca')}) holds no certificate: {_reason(error)}",
            hint="it is the PEM file of the authority that signed the clients' certificates",
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _no_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else str(error)
