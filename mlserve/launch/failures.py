"""What a user is told of a server that did not come up: what happened, its last words, the fix."""

from __future__ import annotations

import signal

from mlserve.errors import ExitCode, MlserveError, ModelLoadFailed, PluginError, Unavailable
from mlserve.launch.docker import containers
from mlserve.launch.last_words import last_words
from mlserve.launch.logs import last_lines
from mlserve.launch.state import ServerRecord

_SHOWN = 15
_SEARCHED = 200
"""How many lines are shown, and in how many the reason is looked for."""
_BY_EXIT_CODE: dict[int, type[MlserveError]] = {
    ExitCode.UNAVAILABLE: ModelLoadFailed,
    ExitCode.PLUGIN: PluginError,
}


def stopped(record: ServerRecord, exit_code: int | None) -> MlserveError:
    """The error for a process that ended while it was starting; None: its code is not known.

    The server's own last error, where its log tells one, is in the message, and its hint is ours.
    """
    kind = Unavailable if exit_code is None else _BY_EXIT_CODE.get(exit_code, Unavailable)
    message = f"{record.name} stopped while it was starting{_how(exit_code)}"
    if exit_code == -signal.SIGKILL:
        return with_log(kind(message, hint=_hint_of_killed(record)), record)
    said = last_words(_log_lines(record, _SEARCHED))
    if said is None:
        return with_log(kind(message), record)
    return with_log(kind(f"{message}: {said.message}", hint=said.hint), record)


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    if exit_code < 0:
        return f" (ended by {signal.Signals(-exit_code).name})"
    return f" (exit code {exit_code})"


def _hint_of_killed(record: ServerRecord) -> str:
    if record.container is None:
        return "was it killed for want of memory?"
    if containers.ran_out_of_memory(record.container):
        return "it ran out of memory: give the container more (--docker-option=--memory=4g)"
    return "was it killed for want of memory, or by hand?"


def with_log(error: MlserveError, record: ServerRecord) -> MlserveError:
    """The same error, with the last lines of the server's log as its detail `log`."""
    lines = _log_lines(record, _SHOWN)
    if lines:
        path = None if record.container is not None or record.log is None else str(record.log)
        command = f"mlserve logs {record.name}"
        error.details["log"] = {"path": path, "command": command, "end": lines}
    elif error.hint is None and record.log is None:
        error.hint = "its log is above"
    return error


def _log_lines(record: ServerRecord, count: int) -> list[str]:
    if record.container is not None:
        return containers.last_lines(record.container, count)
    return last_lines(record.log, count) if record.log else []
