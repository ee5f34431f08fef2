"""Servers whose `mlserve up` was killed before they were ready: nobody else notes what they do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from mlserve.errors import DeadlineExceeded, MlserveError, NotFound, Unavailable
from mlserve.launch.processes import is_process
from mlserve.launch.ready import answers
from mlserve.launch.state import ServerRecord
from mlserve.launch.up import mark_ready

_TIMEOUT = 2.0
"""Seconds that a server has to answer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server was seen to do. `why` says how that is known; empty for the usual.

    `status` is ready, starting, stopping or "not answering".
    """

    record: ServerRecord
    status: str
    why: str = ""


def see(record: ServerRecord) -> Seen:
    """What a server that runs does: as it is recorded, or asked where nobody records it any more.

    One that turns out to be ready is recorded as such.
    """
    if record.is_stopping:
        return Seen(record, "stopping")
    if record.is_ready:
        return Seen(record, "ready")
    if record.up_pid is not None and is_process(record.up_pid, record.up_created):
        return Seen(record, "starting")
    status, told = _ask(record)
    if status == "ready":
        with suppress(MlserveError):  # the state cannot be written: it is asked again next time
            record = mark_ready(record)
    return Seen(record, status, f"the `mlserve up` that started it is gone; asked now, {told}")


def _ask(record: ServerRecord) -> tuple[str, str]:
    try:
        if answers(record, _TIMEOUT):
            return "ready", "it answers"
    except NotFound:
        return "starting", "it has no version yet"
    except (Unavailable, DeadlineExceeded) as error:
        return "not answering", error.message
    except MlserveError as error:
        return "not answering", f"it fails: {error.message}"
    return "starting", "it is loading"
