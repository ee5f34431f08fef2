"""When a server counts as ready: its versions are available, and an image gets an answer."""

from __future__ import annotations

import _ssl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve.artifact import Artifact
from mlserve.client.endpoint import Tls
from mlserve.credentials import read_token
from mlserve.errors import (
    AccessDenied,
    DeadlineExceeded,
    MlserveError,
    ModelLoadFailed,
    NotFound,
    Overloaded,
    Unavailable,
)
from mlserve.images import tiny_png
from mlserve.launch.records import ServerRecord
from mlserve.launch.serving import Serving

if TYPE_CHECKING:
    from mlserve.client import Client


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


_PAUSE = 0.05
_PROBE_TIMEOUT = 1.0
_NOT_YET = (Unavailable, DeadlineExceeded, NotFound, Overloaded)
_NO_ATTEMPT = Unavailable("no attempt was made")
_NAME_A_CERTIFICATE = (
    "the server requires a client certificate of this command too: name one that the authority of "
    "--tls-client-ca has signed, with MLSERVE_TLS_CERT and MLSERVE_TLS_KEY"
)


def wait_until_ready(
    record: ServerRecord, serving: Serving, give_up: float, require_alive: Callable[[], None]
) -> None:
    """Returns once the server answers for each expected version.

    Each round asks first whether the process is alive: `require_alive` raises when it is not.
    `give_up` is a `time.monotonic()` value. Raises Unavailable once it has passed, ModelLoadFailed
    for a version that does not load, and what a real request ends with when it fails.
    """
    patience = _PROBE_TIMEOUT
    last: MlserveError = _NO_ATTEMPT
    with _client(record) as client:
        while (left := give_up - time.monotonic()) > 0:
            require_alive()
            try:
                if _are_available(client, serving, min(left, patience)):
                    _ask_each(record, serving, min(left, patience))
                    return
            except AccessDenied as error:  # no wait mends that
                if record.settings.tls_client_ca is None:
                    raise
                raise AccessDenied(error.message, hint=_NAME_A_CERTIFICATE) from error
            except _NOT_YET as error:
                last = error
                # A first answer may take longer than any guess: the next one gets more time.
                patience = patience * 2 if isinstance(error, DeadlineExceeded) else patience
            time.sleep(_PAUSE)
    require_alive()
    raise Unavailable(
        f"{record.name} was not ready in time (last: {last.message})",
        hint=_hint(record),
    )


def _hint(record: ServerRecord) -> str:
    hint = "--wait gives a slow start more time"
    if record.settings.tls_client_ca is None:
        return hint
    return f"{_NAME_A_CERTIFICATE}; {hint}"


def answers(record: ServerRecord, timeout: float) -> bool:
    """Whether a version is available, and answers an image if it takes any.

    `timeout` is for each question. Raises what the client raises.
    """
    with _client(record) as client:
        available = [s for s in client.status(timeout=timeout) if s.is_available]
    for version in [status.version for status in available if status.version is not None]:
        if Artifact.open(record.base_path, record.model, version).manifest is not None:
            _ask(record, version, timeout)
    return bool(available)


def _are_available(client: Client, serving: Serving, timeout: float) -> bool:
    states = {status.version: status for status in client.status(timeout=timeout)}
    for version in serving.expected:
        status = states.get(version)
        if status is not None and status.error and status.state == "END":
            raise ModelLoadFailed(
                f"version {version} of {serving.model} does not load: {status.error}"
            )
        if status is None or not status.is_available:
            return False
    return True


def _ask_each(record: ServerRecord, serving: Serving, timeout: float) -> None:
    """Asks each expected version about an image, if it takes images."""
    for version in serving.expected if serving.takes_images else ():
        _ask(record, version, timeout)


def _ask(record: ServerRecord, version: int, timeout: float) -> None:
    with _client(record, version) as client:
        client.predict(tiny_png(), timeout=timeout)


def _client(record: ServerRecord, version: int | None = None) -> Client:
    """A client that asks once: the rounds of waiting are its retries."""
    from mlserve.client import Client
    from mlserve.client.call import ONCE

    return Client(
        record.grpc_endpoint,
        model=record.model,
        version=version,
        token=token_of(record),
        tls=tls_of(record),
        retries=ONCE,
    )
