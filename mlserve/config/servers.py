"""The servers of a configuration file: the tables `[servers.NAME]`, each with its models.

    [servers.line]
    rest_port = 9000
    max_queue = 32

    [servers.line.models.defects]
    backend = "onnxruntime"
    threads = 2

The keys are the options of `mlserve up`, with `_` for `-`. A load option beside the ports is for
every model of the server, one beside a model is for that model. What is not in the table has its
default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlserve.config.document import Document, read_document
from mlserve.config.table import SERVERS, Table
from mlserve.errors import NotFound, UsageError, shortened
from mlserve.hints import did_you_mean
from mlserve.load_options import DEFAULT_LOAD_OPTIONS, LoadOptions
from mlserve.options import HelpPanel, Options, described, option
from mlserve.rollout import NO_LADDER, NO_ROLLOUT, RolloutOptions
from mlserve.settings import AUTO, DEFAULT_HOST, OWN_LAUNCHERS, READY_WITHIN, ServerSettings
from mlserve.store import LATEST_VERSION, VersionPolicy, check_name

MODELS = "models"
_VERSION = "version"
_MOST_PORT = 65535


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model of a server. `name` is what clients call it, `model` what it was exported as.

    It is the folder of version folders `path`, or else that model in `store` (None: the user's
    own). `backend` None is found as `mlserve up` does. `rollout` says what a second version is for.
    """

    name: str
    model: str
    backend: str | None = None
    path: Path | None = None
    store: Path | None = None
    versions: VersionPolicy = LATEST_VERSION
    options: LoadOptions = DEFAULT_LOAD_OPTIONS
    rollout: RolloutOptions = NO_ROLLOUT


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A server and its models, of one or several backends; it has at least one.

    A port that is None is the usual one or the next free one; 0 is any free one. `wait` is the
    time in seconds within which the server must be ready. `source` is the file, absolute, or None
    if the value was made by a program.
    """

    name: str
    models: tuple[ModelConfig, ...]
    host: str = DEFAULT_HOST
    grpc_port: int | None = None
    rest_port: int | None = None
    launcher: str = AUTO
    wait: float = READY_WITHIN
    settings: ServerSettings = field(default_factory=ServerSettings)
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration file says. `defaults` are its other tables and keys, not checked."""

    path: Path
    servers: tuple[ServerConfig, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)

    def server(self, name: str) -> ServerConfig:
        """Return the server of that name. Raises NotFound."""
        for server in self.servers:
            if server.name == name:
                return server
        names = [server.name for server in self.servers]
        raise NotFound(
            f"{self.path} has no server {name!r}",
            hint=did_you_mean(name, names)
            + (f"its servers are {', '.join(names)}" if names else f"add one: [{SERVERS}.{name}]"),
        )


def read_config(path: Path) -> Config:
    """Read the file and check its servers.

    Raises UsageError, with file, line and column, for bad TOML, an unknown key, a wrong value, a
    port that is used twice, and a backend that is not installed.
    """
    return servers_of(read_document(path))


def servers_of(document: Document) -> Config:
    """Check the servers of a file that has been read; as `read_config`."""
    root = Table(document, (), document.table)
    tables = root.table(SERVERS)
    servers = tuple(_server(name, table) for name, table in tables.tables())
    _require_own_ports(tables, servers)
    others = {key: value for key, value in document.table.items() if key != SERVERS}
    return Config(document.path, servers, others)


def require_files(document: Document, server: ServerConfig) -> None:
    """Raise UsageError, with its place, unless the files of tokens and TLS are as they must be."""
    from mlserve.credentials import check_files  # a client needs it not

    try:
        check_files(server.settings)
    except UsageError as error:
        root = Table(document, (), document.table)
        raise root.table(SERVERS).table(server.name).located(error) from error


@dataclass(frozen=True, slots=True)
class _ListenKeys(Options):
    """The keys of `[servers.NAME]` that are not settings."""

    host: str = field(
        default=DEFAULT_HOST, metadata=option(HelpPanel.ACCESS, "The address to listen on.")
    )
    grpc_port: int | None = field(
        default=None, metadata=option(HelpPanel.ACCESS, "The gRPC port.", least=0)
    )
    rest_port: int | None = field(
        default=None, metadata=option(HelpPanel.ACCESS, "The REST port.", least=0)
    )
    launcher: str = field(default=AUTO, metadata=option(HelpPanel.MODEL, "What to start."))
    wait: float = field(
        default=READY_WITHIN,
        metadata=option(
            HelpPanel.MODEL, "Seconds within which the server must be ready.", least=0.001
        ),
    )


@dataclass(frozen=True, slots=True)
class _ModelKeys(Options):
    """The keys of `[servers.NAME.models.MODEL]` that are not load options."""

    backend: str | None = field(
        default=None, metadata=option(HelpPanel.MODEL, "The backend.", chosen="the usual one")
    )
    model: str | None = field(
        default=None,
        metadata=option(HelpPanel.MODEL, "The exported model.", chosen="the name of the table"),
    )
    path: Path | None = field(
        default=None,
        metadata=option(
            HelpPanel.MODEL, "A folder of version folders, instead of an exported model."
        ),
    )
    store: Path | None = field(
        default=None,
        metadata=option(HelpPanel.MODEL, "The folder of exported models.", chosen="your own"),
    )


SERVER_KEYS = tuple(
    item for kind in (_ListenKeys, LoadOptions, ServerSettings) for item in described(kind)
)
"""What may stand in `[servers.NAME]`, besides its models."""
MODEL_KEYS = tuple(
    item for kind in (_ModelKeys, LoadOptions, RolloutOptions) for item in described(kind)
)
"""What may stand in `[servers.NAME.models.MODEL]`, besides `version`."""


def _server(name: str, table: Table) -> ServerConfig:
    _require_name("server", name, table)
    _refuse_token(table)
    table.require_known({MODELS, *(item.name for item in SERVER_KEYS)})
    listen = table.options(_ListenKeys)
    for key in ("grpc_port", "rest_port"):
        _require_port(table, key, getattr(listen, key))
    _require_launcher(table, listen.launcher)
    shared, settings = table.options(LoadOptions), table.options(ServerSettings)
    given = table.table(MODELS).tables()
    models = tuple(_model(model, inner, shared, settings.rollout) for model, inner in given)
    if not models:
        raise table.error(
            None, f"[{table.title}] has no models", f"add one: [{table.title}.{MODELS}.NAME]"
        )
    for key in settings.rollout.changed if len(models) > 1 else ():
        raise table.error(
            key,
            f"{key} is for a version of one model, and [{table.title}] has {len(models)}",
            f"write it in the table of the model: [{table.title}.{MODELS}.NAME]",
        )
    return ServerConfig(
        name,
        models,
        **{item.name: getattr(listen, item.name) for item in described(_ListenKeys)},
        settings=settings,
        source=table.document.path,
    )


def _model(name: str, table: Table, shared: LoadOptions, rollout: RolloutOptions) -> ModelConfig:
    _require_name("model", name, table)
    table.require_known({_VERSION, *(item.name for item in MODEL_KEYS)})
    keys = table.options(_ModelKeys)
    if keys.backend is not None:
        _require_backend(table, keys.backend)
    if keys.path is not None:
        for other in ("store", "model"):
            if getattr(keys, other) is not None:
                raise table.error(
                    other,
                    f"path names a model's folder and {other} an exported model's",
                    "give only one of the two",
                )
    options = table.options(LoadOptions, shared)
    if any(item.name in table.values for item in described(RolloutOptions)):
        rollout = table.options(RolloutOptions)
    if rollout.aside is not None and options.ladder is not None:
        raise table.error("ladder", *NO_LADDER)
    return ModelConfig(
        name,
        model=keys.model or name,
        backend=keys.backend,
        path=keys.path,
        store=keys.store,
        versions=replace(_versions(table), aside=rollout.aside),
        options=options,
        rollout=rollout,
    )


def _versions(table: Table) -> VersionPolicy:
    """Return the value of `version`: a number, a list of numbers, or "all"."""
    given = table.values.get(_VERSION, [])
    numbers = given if isinstance(given, list) else [given]
    is_right = given == "all" or all(type(number) is int for number in numbers)
    try:
        if is_right:
            return VersionPolicy.parse([str(number) for number in numbers])
    except UsageError as error:
        raise table.error(_VERSION, error.message, _VERSIONS, of_value=True) from error
    raise table.error(_VERSION, f"{given!r} is not a version", _VERSIONS, of_value=True)


_VERSIONS = 'give a number, a list such as [1, 2], or "all"'


def _require_name(what: str, name: str, table: Table) -> None:
    try:
        check_name(what, name)
    except UsageError as error:
        raise table.error(None, error.message, error.hint or "") from error


def _refuse_token(table: Table) -> None:
    if "token" in table.values:
        raise table.error(
            "token",
            "a token does not belong in this file, which others may read",
            'write it to a file of its own, with mode 600, and give that: token_file = "FILE"',
        )


def _require_port(table: Table, key: str, port: int | None) -> None:
    if port is not None and port > _MOST_PORT:
        raise table.error(
            key,
            f"{key} must be at most {_MOST_PORT}, not {port}",
            "give a port, or 0 for any free one",
            of_value=True,
        )


def _require_backend(table: Table, name: str) -> None:
    from mlserve.plugins import KNOWN, NO_BACKENDS, installed  # a client needs no plugin

    names = installed().keys() - NO_BACKENDS
    if name in names:
        return
    listed = ", ".join(sorted(names)) or "none"
    raise table.error(
        "backend",
        f"there is no backend {shortened(name)!r} (installed: {listed})",
        did_you_mean(name, names | KNOWN.keys() - NO_BACKENDS)
        + "`mlserve plugins` shows what there is",
        of_value=True,
    )


def _require_launcher(table: Table, name: str) -> None:
    from mlserve.plugins import launcher_names  # most files name none of a plugin

    if name in OWN_LAUNCHERS or name in (names := launcher_names()):
        return
    raise table.error(
        "launcher",
        f"there is no launcher {shortened(name)!r} (there are {', '.join(names)})",
        did_you_mean(name, names) + "`mlserve plugins` shows what there is",
        of_value=True,
    )


def _require_own_ports(tables: Table, servers: tuple[ServerConfig, ...]) -> None:
    """Raise UsageError if two ports of the servers are the same on the same address."""
    taken: dict[tuple[str, int], str] = {}
    for server in servers:
        for key, port in _ports(server):
            table = tables.table(server.name)
            other = taken.setdefault((server.host, port), f"{key} of {table.title}")
            if other != f"{key} of {table.title}":
                raise table.error(
                    key,
                    f"port {port} is already the {other}",
                    "give each its own port, or leave it out for the next free one",
                    of_value=True,
                )


def _ports(server: ServerConfig) -> Iterator[tuple[str, int]]:
    for key, port in (("grpc_port", server.grpc_port), ("rest_port", server.rest_port)):
        if port:
            yield key, port
