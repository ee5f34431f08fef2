"""Records of running servers: one JSON file each, written atomically.

Reading them inspects no process, so that `predict` finds its server at once.
`mlserve.launch.running` tells whether a recorded server really runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

from mlserve import paths
from mlserve.artifact import LARGEST_PLAIN_FILE, json_of
from mlserve.backend import Listen
from mlserve.errors import MlserveError, Unavailable, UsageError, reason_of
from mlserve.hints import did_you_mean
from mlserve.launch.private_files import (
    open_own,
    private_folder,
    replace_private,
    require_own,
    state_folder,
)
from mlserve.launcher import NO_TRAITS, OWN_TRAITS, STATE_FILE, Traits
from mlserve.served_model import ServedModel
from mlserve.server_state import ServerState
from mlserve.serving import Serving
from mlserve.settings import EMBEDDED

_FORMAT = 1
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
"""Names of servers become file names."""
_MOST_PID = 2**31 - 1
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""Raised when a record of another shape is read."""

Tell = Callable[[str], None]
"""Called with a line that the user should read."""


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server of `mlserve up`: what it serves, where it listens, and its process or container.

    `pid_created`, the start of the process in seconds since the machine booted, distinguishes it
    from a later process with the same pid. A server in a container has its id in `container`; its
    `pid` is the engine's, and must not be signalled. `log` is None for a server in the foreground.
    `started` is UTC, ISO 8601. `is_ready` is True once each version has answered a real request;
    until then `up_pid` and `up_created` identify the command that started it and waits for it, as
    `pid` and `pid_created` do the server. `is_stopping` is True once `mlserve down` stops it, so
    that it gets no new work. `tls_server_name` is the name to expect in its certificate if that
    does not cover the host. `traits` are those of its launcher at its start. `problem` is that of
    ServerState.
    """

    name: str
    serving: Serving
    launcher: str
    listen: Listen
    pid: int
    pid_created: float
    log: Path | None
    started: str
    is_ready: bool
    is_stopping: bool = False
    up_pid: int | None = None
    up_created: float = 0.0
    container: str | None = None
    tls_server_name: str | None = None
    traits: Traits = NO_TRAITS
    problem: str = field(default="", compare=False)

    @property
    def identity(self) -> str:
        """Its identity on this machine: `pid 123`, or `container 0123456789ab`."""
        return f"container {self.container[:12]}" if self.container else f"pid {self.pid}"

    def is_of_same_start(self, other: ServerRecord) -> bool:
        """Return whether both are the same process or container, not just the same pid."""
        mine, its = ((r.name, r.container or (r.pid, r.pid_created)) for r in (self, other))
        return mine == its

    def require_staying(self) -> None:
        """Raise Unavailable if the server is being stopped."""
        if self.is_stopping:
            raise Unavailable(
                f"{self.name} is stopping: it takes no new work",
                hint="once `mlserve ps` no longer lists it, start it again: mlserve up",
            )

    @property
    def refusal(self) -> str:
        """Say which file is not in force as a whole, and why; empty if there is no such file."""
        if self.serving.config is None or not self.problem:
            return ""
        return f"{self.name} {self.problem}"

    @property
    def grpc_endpoint(self) -> str:
        """`host:port` or `grpcs://host:port` to connect to, even if it listens on every address."""
        scheme = "grpcs://" if self.serving.settings.speaks_tls else ""
        return f"{scheme}{self._at(self.listen.grpc_port)}"

    @property
    def rest_endpoint(self) -> str:
        """`http[s]://host:port` to connect to, even if it listens on every address."""
        scheme = "https" if self.serving.settings.speaks_tls else "http"
        return f"{scheme}://{self._at(self.listen.rest_port)}"

    @property
    def reachable_host(self) -> str:
        """The host to connect to: this machine for a server that listens on every address."""
        host = self.listen.host
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    def _at(self, port: int) -> str:
        host = self.reachable_host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def to_json(self) -> dict[str, Any]:
        """Return flat data, as `mlserve ps --output json` prints it."""
        own = {name: getattr(self, name) for name in _OWN_FIELDS}
        log = None if self.log is None else str(self.log)
        own |= {"log": log, "traits": self.traits.to_json()}
        return own | asdict(self.listen) | self.serving.to_json()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServerRecord:
        """Read what `to_json` wrote, also in an older version of mlserve.

        Raises KeyError, TypeError or ValueError for other data.
        """
        if not _SAFE_NAME.fullmatch(data["name"]):
            raise ValueError(f"{data['name']!r} is not a valid server name")
        values = {name: data[name] for name in _OWN_FIELDS if name in data}
        try:
            values["serving"] = Serving.from_json(data)
        except UsageError as error:  # a value that the options of `up` would reject too
            raise ValueError(error.message) from error
        values["launcher"] = _launcher(data["launcher"])
        values["traits"] = _traits(data)
        values["listen"] = Listen(data["host"], int(data["grpc_port"]), int(data["rest_port"]))
        values["log"] = None if data["log"] is None else Path(data["log"])
        values["pid"] = _pid(data["pid"])
        values["pid_created"] = float(data["pid_created"])
        if data.get("up_pid") is not None:
            values["up_pid"] = _pid(data["up_pid"])
            values["up_created"] = float(data["up_created"])
        return cls(**values)


_OWN_FIELDS = [
    item.name for item in fields(ServerRecord) if item.name not in ("serving", "listen", "problem")
]


def read_records(report: Tell | None = None) -> list[ServerRecord]:
    """Return the recorded servers, by name, without looking at their processes.

    The models of one that follows a file are those that it serves now. A record that is unreadable
    or another user's is passed to `report` (default: a line on stderr) and left out. Raises
    UsageError for another user's state folder.
    """
    found: list[ServerRecord] = []
    for path in _record_files(report or _warn):
        try:
            found.append(_read(path))
        except FileNotFoundError:
            continue  # the server was stopped between listing and reading
        except UsageError as error:
            (report or _warn)(error.message)
        except (OSError, *UNREADABLE) as error:
            (report or _warn)(
                f"the server record {path} cannot be read ({reason_of(error)}); "
                "stop that server by its pid if it runs, and remove the file"
            )
    return found


def select(
    records: Iterable[ServerRecord],
    *,
    backend: str | None = None,
    model: str | None = None,
    name: str | None = None,
    choose: str = "--server",
) -> ServerRecord:
    """Return the one record that matches; None matches all.

    `choose` is what precedes a server's name on the caller's command line. Raises Unavailable if no
    server matches, UsageError if several do.
    """
    known = list(records)
    wanted = {"name": name, "backend": backend, "model": model}
    given = {key: value for key, value in wanted.items() if value is not None}
    fits = [record for record in known if name in (None, record.name)]
    if backend is not None or model is not None:
        fits = [record for record in fits if models_of(record, backend, model)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(record.name for record in fits)
        raise UsageError(
            f"{len(fits)} servers are running: {names}",
            hint=f"choose one by its name, for example: {choose} {fits[0].name}",
        )
    raise _none_running(given, known)


def models_of(
    record: ServerRecord, backend: str | None = None, model: str | None = None
) -> list[ServedModel]:
    """Return the server's models that match; None matches all."""
    return [
        each
        for each in record.serving.models
        if backend in (None, each.backend) and model in (None, each.model)
    ]


def _values(record: ServerRecord, key: str) -> set[str]:
    """Return the values of `key` (name, backend or model) that the server can be chosen by."""
    if key == "name":
        return {record.name}
    return {getattr(model, key) for model in record.serving.models}


def write_record(record: ServerRecord) -> None:
    """Write the record atomically, replacing an older one of the same name.

    Raises MlserveError if the state folder cannot be written.
    """
    path = _path(record.name)
    text = json.dumps({"format": _FORMAT, **record.to_json()}, indent=2) + "\n"
    try:
        state_folder()
        private_folder(path.parent)
        replace_private(path, text)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def remove_record(record: ServerRecord) -> None:
    """Remove the record, unless another process has replaced it since it was read."""
    path = _path(record.name)
    try:
        if _read(path).is_of_same_start(record):
            path.unlink()
    except (FileNotFoundError, UsageError, *UNREADABLE):
        return
    except OSError as error:
        raise unwritable(path.parent, error) from error


def unwritable(path: Path, error: OSError) -> MlserveError:
    """Return the error for a state folder or file that cannot be created or written."""
    return UsageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="make room or fix the permissions; MLSERVE_HOME puts mlserve's files elsewhere",
    )


def _folder() -> Path:
    return paths.state_dir() / "servers"


def _record_files(report: Tell) -> list[Path]:
    require_own(paths.state_dir())
    require_own(_folder())
    try:
        return sorted(path for path in _folder().iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as error:
        report(f"the server records in {_folder()} cannot be read: {error.strerror}")
        return []


def _path(name: str) -> Path:
    return _folder() / f"{name}.json"


def _read(path: Path) -> ServerRecord:
    with open_own(path) as file:
        data = json_of(file.read(LARGEST_PLAIN_FILE))
    if data["format"] != _FORMAT:
        raise ValueError(f"record format {data['format']!r} is not known")
    record = ServerRecord.from_json(data)
    return record if record.serving.config is None else _as_of_now(record)


def _as_of_now(record: ServerRecord) -> ServerRecord:
    """Return the record with the models that the server follows its file to now."""
    try:
        with open_own(files_folder(record.name) / STATE_FILE) as file:
            state = ServerState.from_json(json_of(file.read(LARGEST_PLAIN_FILE)))
    except FileNotFoundError:
        return record
    serving = replace(record.serving, models=state.models)
    return replace(record, serving=serving, problem=state.problem)


def files_folder(name: str) -> Path:
    """Return the folder of the files that the launcher wrote for the server of that name."""
    return paths.state_dir() / "files" / name


def _launcher(name: Any) -> str:
    """Return the name of a launcher, which need not be installed any more."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a launcher")
    return name


def _traits(data: dict[str, Any]) -> Traits:
    """Return the traits; records of older versions have none, and mlserve's own launchers only."""
    if "traits" in data:
        return Traits.from_json(data["traits"])
    return OWN_TRAITS if data["launcher"] == EMBEDDED else NO_TRAITS


def _pid(value: Any) -> int:
    """Return a process id; 0 means none. A negative one would signal a whole group."""
    pid = int(value)
    if not 0 <= pid <= _MOST_PID:
        raise ValueError(f"{value} is not a process id")
    return pid


def _none_running(given: dict[str, str], known: list[ServerRecord]) -> Unavailable:
    if not known:
        return Unavailable("no server is running", hint="start one: mlserve up")
    asked = " and ".join(f"{key} {value!r}" for key, value in given.items())
    names = ", ".join(map(_with_models, known))
    meant = (
        did_you_mean(value, set().union(*(_values(record, key) for record in known)))
        for key, value in given.items()
    )
    return Unavailable(
        f"no server with {asked} is running (running: {names})",
        hint=next(filter(None, meant), "")
        + "`mlserve ps` shows them; start another with mlserve up",
    )


def _with_models(record: ServerRecord) -> str:
    """Return the server's name, with the names of its models if that does not have them."""
    if record.serving.config is None:
        return record.name
    return f"{record.name} with {', '.join(model.model for model in record.serving.models)}"


def _warn(message: str) -> None:
    sys.stderr.write(f"warning: {message}\n")


_PATIENCE = 10.0
"""Seconds for a command that has no limit of its own."""
_PAUSE = 0.02


@contextmanager
def state_lock(within: float = _PATIENCE) -> Iterator[None]:
    """Hold the lock of the state folder; the system releases it when the process ends.

    Tries for `within` seconds; a signal whose handler raises interrupts that. Raises Unavailable if
    another command keeps the lock, UsageError if the folder cannot be written or the lock file is
    not a plain file of this user.
    """
    path = paths.state_dir() / "lock"
    try:
        file = open_own(state_folder() / path.name, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    with file:
        _take(file, within)
        yield


def _take(file: IO[bytes], within: float) -> None:
    """Poll for the lock: a blocking `flock` has no timeout."""
    give_up = time.monotonic() + within
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up:
                raise Unavailable(
                    f"another mlserve command is starting or stopping a server, and has held "
                    f"{file.name} for {within:g} s",
                    hint="try again when it has ended",
                ) from error
            time.sleep(_PAUSE)
        else:
            return
