"""The interface of what starts servers: `Launcher`, `Traits` and `ServerCommand`.

A launcher describes the process of a server as data. mlserve starts that process, records it,
waits until it answers, keeps its log, and stops it with SIGTERM: `ps`, `status`, `logs`, `down` and
`models use` work for every launcher. mlserve has its own, `embedded` and `native`; a plugin
provides another with the hook `mlserve_launcher`, and its name is then a value of `--launcher`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mlserve.backend import Listen
from mlserve.served_model import ServedModel
from mlserve.server_state import state_text
from mlserve.serving import ConfigEntry, Serving

STATE_FILE = "serves.json"
"""The name of the state of a server that follows a file, in the folder of its files."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the servers of a launcher do, as the record of each says: a launcher may be uninstalled.

    `is_own`: it is mlserve's server, or speaks for several: it checks the files of a version, says
    what it cannot load and ends, logs as mlserve does, and reports its load. `drains`: on SIGTERM
    it finishes its requests, and ends within its `drain_timeout` and `end_seconds` more.
    `follows_pin`: it serves the pinned version, and changes with the pin. `has_replicas`: it takes
    the options of a cluster, and answers GET /mlserve/replicas on its REST port. `follows_file`: it
    can serve several models, and follows the configuration file that describes it.
    """

    is_own: bool = False
    drains: bool = False
    follows_pin: bool = False
    has_replicas: bool = False
    follows_file: bool = False
    end_seconds: float = 5.0

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Traits:
        """Read what `to_json` wrote. Raises TypeError or ValueError for data of another shape."""
        flags = {name: value for name, value in data.items() if isinstance(value, bool)}
        return cls(**flags, end_seconds=float(data.get("end_seconds", cls().end_seconds)))


NO_TRAITS = Traits()
"""Those of a third-party server."""
OWN_TRAITS = Traits(is_own=True, drains=True, follows_pin=True)
"""Those of mlserve's own server, in whatever process it runs."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A server process to start. `env` is added to the environment.

    `files` maps paths to texts written into the server's own folder first; `{files}` in an argument
    or a value of `env` stands for that folder. `listens_everywhere`: the server ignores the host.
    `follows_versions`: it serves a newer version as it appears. `longest_folder`: the bytes that
    the path of the folder may have. `descriptors` are open files that the process inherits.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    listens_everywhere: bool = False
    follows_versions: bool = True
    longest_folder: int | None = None
    descriptors: tuple[int, ...] = ()

    def placed(self, folder: Path) -> ServerCommand:
        """Return the command with the folder of the server's files filled in."""
        argv = tuple(argument.replace("{files}", str(folder)) for argument in self.argv)
        env = {name: value.replace("{files}", str(folder)) for name, value in self.env.items()}
        return replace(self, argv=argv, env=env)


class Launcher(ABC):
    """A way to start servers. The class must be cheap to import: no runtime, no cluster.

    The process that `command` describes leads a process group of its own, which gets SIGTERM as a
    whole: a child that must outlive that signal, to drain, is started in another group. The process
    listens on both ports of `Listen`, ends with the exit code of its error (`mlserve.errors`), and
    its last line of level ERROR is what `mlserve up` reports.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `mlserve plugins`."""
    install_hint: ClassVar[str]
    """The command that installs the modules in `requires`."""
    requires: ClassVar[tuple[str, ...]] = ()
    """The modules that `command`'s process needs, checked before it starts."""
    traits: ClassVar[Traits] = OWN_TRAITS

    @abstractmethod
    def require(self, serving: Serving) -> None:
        """Raise UsageError or PluginError for what cannot be served so, before anything starts."""

    @abstractmethod
    def command(self, serving: Serving, listen: Listen) -> ServerCommand:
        """Return the process that serves this on those ports. Starts nothing."""


def own_command(
    serving: Serving, listen: Listen, module: str = "mlserve.server", *more: str
) -> ServerCommand:
    """Return the process of mlserve's own server, or of a module that takes its flags and more."""
    # -P: a user's module in the current folder must not shadow one of the server's.
    argv = [sys.executable, "-P", "-m", module]
    argv += _flags_of(serving.only) if serving.config is None else _flags_of_entry(serving.config)
    argv += ["--host", listen.host]
    argv += ["--grpc-port", str(listen.grpc_port), "--rest-port", str(listen.rest_port)]
    argv += [*serving.settings.argv(), *more]
    files = {} if serving.config is None else {STATE_FILE: state_text(serving.models)}
    return ServerCommand(tuple(argv), {"PYTHONUNBUFFERED": "1"}, files)


def _flags_of(model: ServedModel) -> list[str]:
    # One argument, because a model's name may begin with a dash.
    flags = ["--backend", model.backend, f"--model={model.model}"]
    flags += ["--base-path", str(model.base_path)]
    if model.versions.versions:
        flags += ["--version", *map(str, model.versions.versions)]
    if model.versions.serves_all:
        flags.append("--all-versions")
    return flags + model.options.argv()


def _flags_of_entry(config: ConfigEntry) -> list[str]:
    flags = [f"--config={config.path}", f"--server={config.server}"]
    return [*flags, f"--state={{files}}/{STATE_FILE}"]
