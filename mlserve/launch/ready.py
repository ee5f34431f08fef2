"""Readiness of a server: its versions are available, and an image gets an answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlserve.artifact import Artifact
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
from mlserve.launch.access import CERT_VARIABLE, KEY_VARIABLE, tls_of, token_of
from mlserve.launch.process import is_process
from mlserve.launch.records import ServerRecord, read_records, state_lock, write_record
from mlserve.launch.running import server_of
from mlserve.launch.serving import Serving
from mlserve.settings import Launcher
from mlserve.sources import Kind

if TYPE_CHECKING:
    from mlserve.client import Client

_PAUSE = 0.05
_PROBE_TIMEOUT = 1.0
_NOT_YET = (Unavailable, DeadlineExceeded, NotFound, Overloaded)
_NO_ATTEMPT = Unavailable("no attempt was made")
_NAME_A_CERTIFICATE = (
    "the server requires a client certificate of this command too: name one that the authority of "
    f"--tls-client-ca has signed, with {CERT_VARIABLE} and {KEY_VARIABLE}"
)
_ANSWER_SECONDS = 2.0
_LAST_WORDS = 3.0
_OUR_LAST_WORDS = 15.0
"""Seconds that a server gets to end after a version has not loaded; one of ours does end, but a
framework can take a while to let go."""


def wait_until_ready(
    record: ServerRecord, serving: Serving, give_up: float, require_alive: Callable[[], None]
) -> None:
    """Wait until the server answers for each expected version.

    Each round first calls `require_alive`, which raises if the process is gone. `give_up` is a
    `time.monotonic()` value. Raises Unavailable once it has passed, ModelLoadFailed for a version
    that does not load, and the error of a real request that fails.
    """
    patience = _PROBE_TIMEOUT
    last: MlserveError = _NO_ATTEMPT
    not_loaded: ModelLoadFailed | None = None
    with client_of(record) as client:
        while (left := give_up - time.monotonic()) > 0:
            require_alive()
            try:
                if _are_available(client, serving, min(left, patience)):
                    _ask_each(record, serving, min(left, patience))
                    return
            except AccessDenied as error:  # waiting does not help
                if record.serving.settings.tls_client_ca is None:
                    raise
                raise AccessDenied(error.message, hint=_NAME_A_CERTIFICATE) from error
            except ModelLoadFailed as error:
                # A server of ours ends now, and its last words say more; a third-party one stays.
                not_loaded = error
                is_ours = record.launcher is Launcher.EMBEDDED
                seconds = _OUR_LAST_WORDS if is_ours else _LAST_WORDS
                give_up = min(give_up, time.monotonic() + seconds)
            except _NOT_YET as error:
                last = error
                # A first answer may take longer than any guess, so the next attempt gets more time.
                patience = patience * 2 if isinstance(error, DeadlineExceeded) else patience
            time.sleep(_PAUSE)
    require_alive()
    if not_loaded is not None:  # also of a server that has closed its ports, but not ended yet
        raise not_loaded
    raise Unavailable(
        f"{record.name} was not ready in time (last: {last.message})",
        hint=_hint(record),
    )


def _hint(record: ServerRecord) -> str:
    hint = "--wait gives a slow start more time"
    if record.serving.settings.tls_client_ca is None:
        return hint
    return f"{_NAME_A_CERTIFICATE}; {hint}"


def mark_ready(record: ServerRecord) -> ServerRecord:
    """Return the record marked ready; also on disk, if the record there is of the same process."""
    ready = replace(record, is_ready=True)
    with state_lock():
        if any(r.is_of_same_start(record) for r in read_records()):
            write_record(ready)
    server_of(ready).let_restart()
    return ready


@dataclass(frozen=True, slots=True)
class Seen:
    """The observed state of a server. `why` says how it is known; empty in the usual case.

    `status` is ready, starting, stopping or "not answering".
    """

    record: ServerRecord
    status: str
    why: str = ""


def see(record: ServerRecord) -> Seen:
    """Return a running server's state, as recorded, or by asking it if its `up` is gone.

    A server that turns out to be ready is recorded as such.
    """
    if record.is_stopping:
        return Seen(record, "stopping")
    if record.is_ready:
        return Seen(record, "ready")
    if record.up_pid is not None and is_process(record.up_pid, record.up_created):
        return Seen(record, "starting")
    status, told = _ask(record)
    if status == "ready":
        with suppress(MlserveError):  # if it cannot be written, ask again next time
            record = mark_ready(record)
    return Seen(record, status, f"the `mlserve up` that started it is gone; now {told}")


def _ask(record: ServerRecord) -> tuple[str, str]:
    try:
        if _answers(record, _ANSWER_SECONDS):
            return "ready", "it answers"
    except NotFound:
        return "starting", "it has no version yet"
    except (Unavailable, DeadlineExceeded) as error:
        return "not answering", error.message
    except MlserveError as error:
        return "not answering", f"it fails: {error.message}"
    return "starting", "it is loading"


def _answers(record: ServerRecord, timeout: float) -> bool:
    """Return whether a version is available, and answers an image if it takes any.

    `timeout` applies to each request. Raises what the client raises.
    """
    with client_of(record) as client:
        available = [s for s in client.status(timeout=timeout) if s.is_available]
    for version in [status.version for status in available if status.version is not None]:
        artifact = Artifact.open(record.serving.base_path, record.serving.model, version)
        if artifact.manifest is not None and artifact.manifest.kind is Kind.IMAGE_CLASSIFIER:
            _predict(record, version, timeout)
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
    """Send an image to each expected version, if it takes images."""
    for version in serving.expected if serving.takes_images else ():
        _predict(record, version, timeout)


def _predict(record: ServerRecord, version: int, timeout: float) -> None:
    with client_of(record, version) as client:
        client.predict(tiny_png(), timeout=timeout)


def client_of(record: ServerRecord, version: int | None = None) -> Client:
    """Return a client that does not retry: the waiting loop does."""
    from mlserve.client import Client
    from mlserve.client.retries import ONCE

    return Client(
        record.grpc_endpoint,
        model=record.serving.model,
        version=version,
        token=token_of(record),
        tls=tls_of(record),
        retries=ONCE,
    )
