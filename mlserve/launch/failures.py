"""What a user is told of a server that did not come up: what happened, its last words, the fix."""

from __future__ import annotations

import signal

from mlserve.errors import ExitCode, MlserveError, ModelLoadFailed, PluginError, Unavailable
from mlserve.launch.docker import containers
from mlserve.launch.logs import last_lines
from mlserve.launch.state import ServerRecord

_LINES = 15
_BY_EXIT_CODE: dict[int, type[MlserveError]] = {
    ExitCode.UNAVAILABLE: ModelLoadFailed,
    ExitCode.PLUGIN: PluginError,
}


def stopped(record: ServerRecord, exit_code: int | None) -> MlserveError:
    """The error for a process that ended while it was starting; None: its code is not known."""
    kind = Unavailable if exit_code is None else _BY_EXIT_CODE.get(exit_code, Unavailable)
    message = f"{record.name} stopped while it was starting{_how(exit_code)}"
    if exit_code == -signal.SIGKILL:
        return kind(message + _tail(record), hint=_hint_of_killed(record))
    return kind(message + _tail(record), hint=_hint(record))


def with_log(error: MlserveError, record: ServerRecord) -> MlserveError:
    """The same error with the last lines of the server's log and what to do."""
    hint = f"{error.hint}; {_hint(record)}" if error.hint else _hint(record)
    return type(error)(error.message + _tail(record), hint=hint)


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


def _tail(record: ServerRecord) -> str:
    log = record.log
    if record.container is not None:
        lines = containers.last_lines(record.container, _LINES)
    else:
        lines = last_lines(log, _LINES) if log else []
    if not lines:
        return ""
    where = f" {log}" if record.container is None else ""
    return f"; the end of its log{where}:\n" + "\n".join(f"  {line}" for line in lines)


def _hint(record: ServerRecord) -> str:
    if record.log is None:
        return "its log is above"
    return f"its whole log: mlserve logs {record.name}"
