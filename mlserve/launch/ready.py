"""Readiness of a server: the versions of its models are available, and an image gets an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
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
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.sources import Kind

if TYPE_CHECKING:
    from mlserve.client import Client
    from mlserve.client.answers import ServerLoad

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
    """Wait until the server answers for each expected version of each model.

    Each round first calls `require_alive`, which raises if the process is gone. `give_up` is a
    `time.monotonic()` value. Raises Unavailable once it has passed, naming the models that are not
    ready, ModelLoadFailed for a version that does not load, and the error of a real request that
    fails.
    """
    with ExitStack() as stack:
        awaited = [
            _Awaited(record, model, stack.enter_context(client_of(record, model)))
            for model in serving.models
        ]
        while time.monotonic() < give_up:
            require_alive()
            for model in awaited:
                if (left := give_up - time.monotonic()) > 0:
                    model.ask(min(left, model.patience))
            awaited = [model for model in awaited if not model.is_ready]
            if not awaited:
                return
            if any(model.failure is not None for model in awaited):
                # A server of ours ends now, and its last words say more; a third-party one stays.
                seconds = _OUR_LAST_WORDS if record.traits.is_own else _LAST_WORDS
                give_up = min(give_up, time.monotonic() + seconds)
            time.sleep(_PAUSE)
    require_alive()
    for model in awaited:
        if model.failure is not None:  # also if it has closed its ports, but not ended yet
            raise model.failure
    raise _not_in_time(record, awaited)


@dataclass(slots=True)
class _Awaited:
    """A model that must become ready, and what it has said so far."""

    record: ServerRecord
    served: ServedModel
    client: Client
    patience: float = _PROBE_TIMEOUT
    last: MlserveError = _NO_ATTEMPT
    failure: ModelLoadFailed | None = None
    is_ready: bool = False

    def ask(self, timeout: float) -> None:
        """Look whether it is ready. Raises AccessDenied, as waiting does not help then."""
        try:
            if _are_available(self.client, self.served, timeout):
                _ask_each(self.record, self.served, timeout)
                self.is_ready = True
            else:
                self.last = Unavailable(f"{self.served.model} is loading")
        except AccessDenied as error:
            if self.record.serving.settings.tls_client_ca is None:
                raise
            raise AccessDenied(error.message, hint=_NAME_A_CERTIFICATE) from error
        except ModelLoadFailed as error:
            self.failure = error
        except _NOT_YET as error:
            self.last = error
            if isinstance(error, DeadlineExceeded):
                # A first answer may take longer than any guess, so the next one gets more time.
                self.patience *= 2


def _not_in_time(record: ServerRecord, late: Sequence[_Awaited]) -> Unavailable:
    last = late[-1].last.message if late else _NO_ATTEMPT.message
    if len(record.serving.models) == 1:
        message = f"{record.name} was not ready in time (last: {last})"
    else:
        names = ", ".join(model.served.model for model in late)
        message = f"{record.name} was not ready in time: {names} did not answer (last: {last})"
    return Unavailable(message, hint=_hint(record))


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


def load_of(record: ServerRecord) -> ServerLoad | None:
    """Return the load, with what runs each version, as a server of ours says.

    None if it does not say so soon.
    """
    models = record.serving.models
    if not models or not record.traits.is_own:
        return None
    try:
        with client_of(record, models[0]) as client:
            return client.load(timeout=_PROBE_TIMEOUT)
    except MlserveError:  # `mlserve status` says why
        return None


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
    """Return whether each model has an available version, which answers an image if it takes any.

    `timeout` applies to each request. Raises what the client raises.
    """
    return all(_model_answers(record, model, timeout) for model in record.serving.models)


def _model_answers(record: ServerRecord, model: ServedModel, timeout: float) -> bool:
    with client_of(record, model) as client:
        available = [s for s in client.status(timeout=timeout) if s.is_available]
    for version in [status.version for status in available if status.version is not None]:
        artifact = Artifact.open(model.base_path, model.model, version)
        if artifact.manifest is not None and artifact.manifest.kind is Kind.IMAGE_CLASSIFIER:
            _predict(record, model, version, timeout)
    return bool(available)


def _are_available(client: Client, model: ServedModel, timeout: float) -> bool:
    states = {status.version: status for status in client.status(timeout=timeout)}
    for version in model.expected:
        status = states.get(version)
        if status is not None and status.error and status.state == "END":
            raise ModelLoadFailed(
                f"version {version} of {model.model} does not load: {status.error}"
            )
        if status is None or not status.is_available:
            return False
    return True


def _ask_each(record: ServerRecord, model: ServedModel, timeout: float) -> None:
    """Send an image to each expected version, if it takes images."""
    for version in model.expected if model.takes_images else ():
        _predict(record, model, version, timeout)


def _predict(record: ServerRecord, model: ServedModel, version: int, timeout: float) -> None:
    with client_of(record, model, version) as client:
        client.predict(tiny_png(), timeout=timeout)


def client_of(record: ServerRecord, model: ServedModel, version: int | None = None) -> Client:
    """Return a client that does not retry: the waiting loop does."""
    from mlserve.client import Client
    from mlserve.client.retries import ONCE

    return Client(
        record.grpc_endpoint,
        model=model.model,
        version=version,
        token=token_of(record),
        tls=tls_of(record),
        retries=ONCE,
        throttle=False,
        probe=True,
    )
