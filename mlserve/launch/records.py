"""The record of running servers: one JSON file for each, written whole or not at all.

Reading them is cheap, so that `predict` can find its server: no process is looked at here. Whether
a recorded process really runs is told by `mlserve.launch.process`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mlserve import paths
from mlserve.artifact import LARGEST_PLAIN_FILE, json_of
from mlserve.errors import MlserveError, Unavailable, UsageError, reason_of
from mlserve.hints import did_you_mean
from mlserve.launch.private_files import (
    create_private,
    open_own,
    private_folder,
    require_own,
    state_folder,
)
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings

_FORMAT = 1
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
"""Names of servers become names of files."""
_MOST_PID = 2**31 - 1
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What a record of another shape raises when it is read."""


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server that `mlserve up` started: what it serves, where it listens, which process it is.

    `versions` is empty when it follows the latest version, or all (`all_versions`). `launcher` is
    `embedded`, `native` or `docker`. `pid_created`, the start of the process in seconds since the
    machine booted, tells it from a later process with the same pid. A server in a container has
    the id of it in `container`, its `image`, and the `docker_options` that were given; its `pid` is
    the engine's, and must not be signalled. `log` is None for a server in the
    foreground. `started` is UTC, ISO 8601. `is_ready` is True once the version has answered a real
    request; until then `up_pid` and `up_created` tell the command that started it and waits for it,
    as `pid` and `pid_created` do the server. `is_stopping` is True once `mlserve down` stops it, so
    that it gets no new work.
    `threads`, `provider`, `instances` and `settings` are what the options gave.
    """

    name: str
    backend: str
    model: str
    versions: tuple[int, ...]
    base_path: Path
    launcher: str
    pid: int
    pid_created: float
    host: str
    grpc_port: int
    rest_port: int
    log: Path | None
    started: str
    has_random_weights: bool
    is_ready: bool
    all_versions: bool = False
    threads: int | None = None
    provider: str | None = None
    instances: int | None = None
    settings: ServerSettings = DEFAULT_SETTINGS
    is_stopping: bool = False
    up_pid: int | None = None
    up_created: float = 0.0
    container: str | None = None
    image: str | None = None
    docker_options: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What it is known by on its machine: `pid 123`, or `container 0123456789ab`."""
        return f"container {self.container[:12]}" if self.container else f"pid {self.pid}"

    def is_of_same_start(self, other: ServerRecord) -> bool:
        """Whether both are of one process, or one container: the next may have the same pid."""
        mine, its = ((r.name, r.container or (r.pid, r.pid_created)) for r in (self, other))
        return mine == its

    def require_staying(self) -> None:
        """Raises Unavailable when the server is being stopped."""
        if self.is_stopping:
            raise Unavailable(
                f"{self.name} is stopping: it takes no new work",
                hint="once `mlserve ps` no longer lists it, start it again: mlserve up",
            )

    @property
    def grpc_endpoint(self) -> str:
        """`host:port`, or `grpcs://host:port`, to connect to; also when it listens everywhere."""
        scheme = "grpcs://" if self.settings.speaks_tls else ""
        return f"{scheme}{self._at(self.grpc_port)}"

    @property
    def rest_endpoint(self) -> str:
        """`http[s]://host:port` to connect to; also when the server listens everywhere."""
        scheme = "https" if self.settings.speaks_tls else "http"
        return f"{scheme}://{self._at(self.rest_port)}"

    @property
    def reachable_host(self) -> str:
        """The host to connect to: this machine for a server that listens on every address."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    def _at(self, port: int) -> str:
        host = self.reachable_host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def to_json(self) -> dict[str, Any]:
        log = None if self.log is None else str(self.log)
        data = asdict(self) | {"base_path": str(self.base_path), "log": log}
        lists = {"versions": list(self.versions), "docker_options": list(self.docker_options)}
        return data | lists | {"settings": self.settings.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServerRecord:
        """Reads what `to_json` wrote. Raises KeyError, TypeError or ValueError for other data."""
        if not _SAFE_NAME.fullmatch(data["name"]):
            raise ValueError(f"{data['name']!r} is not a valid server name")
        values = {name: data[name] for name in cls.__slots__ if name in data}
        values["versions"] = tuple(int(version) for version in data["versions"])
        values["docker_options"] = tuple(map(str, data.get("docker_options", ())))
        values["base_path"] = Path(data["base_path"])
        values["log"] = None if data["log"] is None else Path(data["log"])
        try:
            values["settings"] = ServerSettings.from_json(data.get("settings", {}))
        except UsageError as error:
            raise ValueError(error.message) from error
        for name in ("grpc_port", "rest_port"):
            values[name] = int(data[name])
        values["pid"] = _pid(data["pid"])
        values["pid_created"] = float(data["pid_created"])
        if data.get("up_pid") is not None:
            values["up_pid"] = _pid(data["up_pid"])
            values["up_created"] = float(data["up_created"])
        return cls(**values)


def server_name(backend: str, model: str) -> str:
    """The name of the server of that backend and model: `<backend>-<model>`."""
    return f"{backend}-{model}"


def read_records(report: Callable[[str], None] | None = None) -> list[ServerRecord]:
    """The recorded servers, by name; the processes are not looked at.

    A record that cannot be read, or is another user's, is named through `report` (default: a line
    on stderr) and left out. Raises UsageError for a state folder of another user.
    """
    found: list[ServerRecord] = []
    for path in _record_files(report or _warn):
        try:
            found.append(_read(path))
        except FileNotFoundError:
            continue  # the server was stopped between listing and reading
        except UsageError as error:
            (report or _warn)(error.message)
        except (OSError, *_UNREADABLE) as error:
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
    """The one record that fits; None fits all.

    `choose` is what stands before a server's name on the command line of the caller. Raises
    Unavailable when no server fits, UsageError when several do.
    """
    known = list(records)
    wanted = {"name": name, "backend": backend, "model": model}
    given = {key: value for key, value in wanted.items() if value is not None}
    fits = [r for r in known if all(getattr(r, key) == value for key, value in given.items())]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(record.name for record in fits)
        raise UsageError(
            f"{len(fits)} servers are running: {names}",
            hint=f"choose one by its name, for example: {choose} {fits[0].name}",
        )
    raise _none_running(given, known)


def write_record(record: ServerRecord) -> None:
    """Writes the record in place of an older one of the same name, whole or not at all.

    Raises MlserveError when the state folder cannot be written.
    """
    path = _path(record.name)
    text = json.dumps({"format": _FORMAT, **record.to_json()}, indent=2) + "\n"
    try:
        state_folder()
        private_folder(path.parent)
        _replace(path, text)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def remove_record(record: ServerRecord) -> None:
    """Removes the record, unless another process has taken its place since it was read."""
    path = _path(record.name)
    try:
        if _read(path).is_of_same_start(record):
            path.unlink()
    except (FileNotFoundError, UsageError, *_UNREADABLE):
        return
    except OSError as error:
        raise unwritable(path.parent, error) from error


def unwritable(path: Path, error: OSError) -> MlserveError:
    """The error for a state folder or file that cannot be made or written."""
    return UsageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="make room or fix the permissions; MLSERVE_HOME puts mlserve's files elsewhere",
    )


def _folder() -> Path:
    return paths.state_dir() / "servers"


def _record_files(report: Callable[[str], None]) -> list[Path]:
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
    return ServerRecord.from_json(data)


def _pid(value: Any) -> int:
    """The id of a process; 0 stands for none. Signals to a negative one go to many."""
    pid = int(value)
    if not 0 <= pid <= _MOST_PID:
        raise ValueError(f"{value} is not a process id")
    return pid


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with create_private(temporary) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _none_running(given: dict[str, str], known: list[ServerRecord]) -> Unavailable:
    if not known:
        return Unavailable("no server is running", hint="start one: mlserve up")
    asked = " and ".join(f"{key} {value!r}" for key, value in given.items())
    names = ", ".join(record.name for record in known)
    meant = (did_you_mean(value, {getattr(r, key) for r in known}) for key, value in given.items())
    return Unavailable(
        f"no server with {asked} is running (running: {names})",
        hint=next(filter(None, meant), "")
        + "`mlserve ps` shows them; start another with mlserve up",
    )


def _warn(message: str) -> None:
    sys.stderr.write(f"warning: {message}\n")


_PATIENCE = 10.0
"""Seconds for a command that has no limit of its own."""
_PAUSE = 0.02


@contextmanager
def state_lock(within: float = _PATIENCE) -> Iterator[None]:
    """Holds the lock of the state folder; the system lets go of it when the process ends.

    It is tried for `within` seconds. A signal interrupts that, as its handler says. Raises
    Unavailable when another command keeps it, UsageError when the folder cannot be written or the
    lock is another file's.
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
    """Tries again and again: a `flock` that waits knows no limit."""
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
