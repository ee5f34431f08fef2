"""Defaults of the commands' options: from the environment and from the configuration file.

The options themselves say which keys and variables there are. `settings_of` is the one table of
them: the option `--top-k` of `predict` is the key `top_k` of `[predict]`, and the variable
MLSERVE_PREDICT_TOP_K. What the commands that ask a server have in common is in `[client]`, and its
variables leave the table out: MLSERVE_TIMEOUT. A flag goes before the environment, and that before
the file; of two tables or variables, that of the command goes first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperOption

from mlserve.cli.output import note
from mlserve.config.locate import NO_FILE, VARIABLE, candidates
from mlserve.errors import UsageError
from mlserve.options import AUTO, flag_of

if TYPE_CHECKING:  # a command that has no file loads none of this
    from mlserve.config.document import Document
    from mlserve.config.table import Table

CLIENT = "client"
"""The table of what the commands that ask a server have in common."""
_TOP = ""
"""The top of the file, outside of every table."""
_ONE_CALL: Mapping[str, frozenset[str]] = {
    "predict": frozenset({"input", "json", "format", "expect", "output_file", "resume"}),
    "gate": frozenset({"stdin", "watch", "reset_alarm"}),
    "metadata": frozenset(),
    "status": frozenset(),
    "export": frozenset({"version"}),
    "build": frozenset({"file_only"}),
    "up": frozenset({"auto", "foreground", "open"}),
    "compare": frozenset({"report"}),
}
"""The commands that have a table, each with the options that make sense for one call only."""
_ASK_TOO = ("gate calibrate", "why", "audit")
"""Commands without a table that ask the server of `[client]`, each in a time of its own."""
_OF_WHAT_RUNS = ("ps", "logs", "status", "down")
"""Commands that show and stop servers that run: they have to work whatever the file says."""
_FOR_ALL = ("store", "output")
"""Options that mean the same in every command: they may stand at the top of the file."""
_ALTERNATIVES = (("endpoint", "server"), ("endpoint", "backend"), ("path", "store"))
"""Options of which a call takes one: a flag for one overrides the other's value of the file."""
IS_JSON = "mlserve.is_json"
"""Key under which a context keeps whether errors are printed as JSON."""
JSON_FORMATS = ("json", "jsonl")
"""The formats of `--output` with which errors are JSON too."""
_DOCUMENT, _GIVEN = "mlserve.document", "mlserve.given"
"""Keys under which a context keeps the configuration file, and what was given to the command."""
_DIAGNOSES, _PROBLEM = "doctor", "mlserve.problem"
"""The command that reports what is wrong with the file, and the key under which that is kept."""
_FROM_DEFAULTS = "DEFAULT_MAP"
"""Typer's name for the source of a value that neither a flag nor the option itself gives."""
_IS_PATH = re.compile(r"\b(FILE|DIR)\b")
_PLACES = {"FILE", "DIR", "URL"}
_FLAG = re.compile(r"--[a-z]+(?:-[a-z]+)*")


# Every command loads this module: a NamedTuple is made in a tenth of a dataclass's time.
class Given(NamedTuple):
    """A value that the environment or the file gives to an option, and where it stands.

    That is a `variable`, or else the file. `way` is where it stands there, or would.
    """

    value: Any
    way: tuple[str, ...]
    variable: str | None = None

    @property
    def key(self) -> str:
        """Return the way as a dotted key: `client.timeout`."""
        return ".".join(self.way)

    def origin(self, document: Document | None) -> str:
        """Return the name of the variable, or `FILE:LINE:COLUMN`."""
        if self.variable is not None or document is None:
            return self.variable or ""
        return document.place(self.way, of_value=True)


class Setting(NamedTuple):
    """An option of a command that the environment and the file can set.

    It may stand in each of `tables`, empty for the top of the file: the first that has it counts.
    """

    command: str
    option: Any
    key: str
    tables: tuple[str, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the variables that set it, in the order of the tables."""
        return tuple(_variable(table, self.key) for table in self.tables)

    @property
    def own_key(self) -> str:
        """Return the dotted key that sets it for the commands that share its default."""
        table = CLIENT if CLIENT in self.tables else self.tables[0]
        return ".".join(self._way(table))

    def given(self, document: Document | None) -> Given | None:
        """Return what the environment gives, or else the file; None if neither does.

        A variable that is empty counts as absent. Raises UsageError for a wrong type in the file.
        """
        for name, variable in zip(self.tables, self.variables, strict=True):
            if text := os.environ.get(variable):
                value = self.option.type.split_envvar_value(text) if self.option.multiple else text
                return Given(value, self._way(name), variable)
        return None if document is None else self._given_by(document)

    def _given_by(self, document: Document) -> Given | None:
        for name in self.tables:
            table = _table(document, name)
            if self.key in table.values:
                return Given(self.read(table), self._way(name))
        return None

    def _way(self, table: str) -> tuple[str, ...]:
        return (table, self.key) if table else (self.key,)

    def converted(self, ctx: Any, given: Given) -> Any:
        """Return a given value as the command gets it. Raises UsageError with its place."""
        try:
            return self.option.type_cast_value(ctx, given.value)
        except typer.TyperException as error:
            raise UsageError(
                f"{given.origin(document_of(ctx))}: {error.message}",
                hint=f"it is the {self.option.opts[0]} of mlserve {self.command}",
            ) from error

    def read(self, table: Table) -> Any:
        """Return its value in that table. Raises UsageError with its place for a wrong type."""
        value = table.values[self.key]
        if self.option.multiple:
            return [self._item(table, item) for item in _as_list(value)]
        choices = [str(choice) for choice in getattr(self.option.type, "choices", ())]
        if value == AUTO and takes_auto(self.option):
            return value
        found = table.value(self.key, _kind(self.option), choices)
        return self._beside(table, found)

    def _item(self, table: Table, item: Any) -> str:
        """Return an item of a list as text; a version is a number in the file."""
        text = str(item) if type(item) is int else item
        return str(replace(table, values={self.key: text}).value(self.key, str))

    def _beside(self, table: Table, value: Any) -> Any:
        """Return a path as text, also of a text that names a file beside the configuration.

        Where the option takes other words too (`random`), the text is a path if that is there.
        """
        metavar = self.option.metavar or ""
        if isinstance(value, str) and _IS_PATH.search(metavar):
            from mlserve.remote.address import is_remote  # most files name no model

            path = table.path(self.key, value)
            is_path = path.exists() or set(metavar.split("|")) <= _PLACES
            return str(path) if is_path and not is_remote(value) else value
        return str(value) if isinstance(value, Path) else value


def config_option() -> Any:
    """Return the option `--config` of a command, which gives the others their defaults."""
    return TyperOption(
        param_decls=["config", "--config"],
        type=str,
        metavar=f"FILE|{NO_FILE}",
        help="The configuration file. Default: mlserve.toml, or [tool.mlserve] in pyproject.toml, "
        f"in this folder or a parent; {NO_FILE} reads no file.",
        envvar=VARIABLE,
        show_default=False,
        is_eager=True,
        expose_value=False,
        callback=_apply,
    )


def _apply(ctx: Any, _option: Any, path: str | None) -> None:
    """Read the configuration file, and take the defaults of this command from it."""
    if ctx.resilient_parsing:
        return
    if path is not None or _DOCUMENT not in ctx.meta:
        paths = candidates(path)
        ctx.meta[_DOCUMENT] = _load(ctx, paths, are_found=path is None) if paths else None
    document = document_of(ctx)
    given = {s.option.name: s.given(document) for s in settings_of(ctx.command, command_name(ctx))}
    ctx.meta[_GIVEN] = {name: found for name, found in given.items() if found is not None}
    ctx.default_map = {name: found.value for name, found in ctx.meta[_GIVEN].items()}
    if ctx.default_map.get("output") in JSON_FORMATS:
        ctx.meta[IS_JSON] = True


def _load(ctx: Any, paths: Sequence[Path], *, are_found: bool) -> Document | None:
    from mlserve.config.document import first_of

    try:
        document = first_of(paths, are_found=are_found)
        if document is not None:
            require_known(document, all_settings(ctx.find_root().command))
    except UsageError as error:
        if command_name(ctx) == _DIAGNOSES:
            ctx.meta[_PROBLEM] = error
            return None
        if not are_found or command_name(ctx) not in _OF_WHAT_RUNS:
            raise
        note(f"warning: {error.message}; the defaults in this file are not used")
        return None
    return document


def settings_of(command: Any, name: str) -> list[Setting]:
    """Return the settings of a command, in the order of its options."""
    asks = any(option.name == "endpoint" for option in command.params)
    found = []
    for option in command.params:
        if option.param_type_name != "option" or not option.expose_value:
            continue
        tables = _tables(name, _key(option), asks=asks)
        if tables:
            found.append(Setting(name, option, _key(option), tables))
    return found


def _tables(command: str, key: str, *, asks: bool) -> tuple[str, ...]:
    """Return the tables where an option may stand, the one that goes first in front."""
    has_own = command in _ONE_CALL and key not in _ONE_CALL[command]
    own = (command,) if has_own else ()
    asks_too = command in _ASK_TOO and key != "timeout"
    is_shared = asks and (has_own or asks_too) and key in _client_keys()
    shared = (CLIENT,) if is_shared else ()
    return (*own, *shared, *((_TOP,) if key in _FOR_ALL else ()))


@cache
def _client_keys() -> frozenset[str]:
    from mlserve.cli.server_choice import ServerChoice  # only commands that ask a server need it

    return frozenset(field.name for field in fields(ServerChoice)) - {"version"} | {"timeout"}


def all_settings(group: Any) -> list[Setting]:
    """Return the settings of every command, in the order of `mlserve --help`."""
    return [s for name, command in _commands(group, ()) for s in settings_of(command, name)]


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))


def require_known(document: Document, settings: Sequence[Setting]) -> None:
    """Raise UsageError for a key that no command has, or a value of another type.

    The servers are checked by who uses them.
    """
    from mlserve.config.table import SERVERS

    by_table: dict[str, dict[str, Setting]] = {_TOP: {}}
    for setting in settings:
        for name in setting.tables:
            by_table.setdefault(name, {}).setdefault(setting.key, setting)
    _table(document, _TOP).require_known({SERVERS, *by_table, *by_table[_TOP]} - {_TOP})
    for name, known in by_table.items():
        table = _table(document, name)
        if name:
            table.require_known(known)
        for key in table.values:
            if key in known:
                known[key].read(table)


def document_of(ctx: Any) -> Document | None:
    """Return the configuration file of this run, if there is one."""
    found: Document | None = ctx.meta.get(_DOCUMENT)
    return found


def problem_of(ctx: Any) -> UsageError | None:
    """Return why the configuration file could not be read, for a command that says so itself."""
    found: UsageError | None = ctx.meta.get(_PROBLEM)
    return found


def command_name(ctx: Any) -> str:
    """Return the name of the running command without `mlserve`, such as `plugins new`."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(names)


def drop_overridden(ctx: Any) -> None:
    """Forget the default of an option if a stronger source gives one that excludes it.

    Two that are given in the same way stay, and the command refuses them.
    """
    for pair in _ALTERNATIVES:
        if any(ctx.params.get(name) is None for name in pair):
            continue
        strengths = [_strength(ctx, name) for name in pair]
        if strengths[0] != strengths[1]:
            ctx.params[pair[strengths.index(min(strengths))]] = None


def _strength(ctx: Any, name: str) -> int:
    """Return 2 for the value of a flag, 1 for one of the environment, 0 for one of the file."""
    given = _given(ctx, name)
    return 2 if given is None else int(given.variable is not None)


def _given(ctx: Any, name: str) -> Given | None:
    """Return where an option's value comes from; None if from a flag or the built-in default."""
    source = ctx.get_parameter_source(name)
    if source is None or source.name != _FROM_DEFAULTS:
        return None
    found: Given = ctx.meta[_GIVEN][name]
    return found


@contextmanager
def naming_origin(ctx: Any) -> Iterator[None]:
    """Make an error about an option say where its value comes from, if that is not a flag."""
    try:
        yield
    except UsageError as error:
        named = {*_FLAG.findall(error.message), flag_of(error.message.partition(" ")[0])}
        for option in ctx.command.params:
            given = _given(ctx, option.name) if option.opts[0] in named else None
            if given is not None:
                error.message = f"{given.origin(document_of(ctx))}: {error.message}"
                break
        raise


def _table(document: Document, name: str) -> Table:
    from mlserve.config.table import Table

    top = Table(document, (), document.table)
    return top.table(name) if name else top


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _key(option: Any) -> str:
    """Return the key of an option: its long form, with `_` for `-`."""
    return str(option.opts[0]).lstrip("-").replace("-", "_")


def _variable(table: str, key: str) -> str:
    prefix = "" if table in (_TOP, CLIENT) else f"{table}_"
    return f"MLSERVE_{prefix}{key}".upper()


def _kind(option: Any) -> type:
    """Return the type of an option's value in the file."""
    return bool if option.is_flag else _KINDS.get(option.type.name.partition(" ")[0], str)


def takes_auto(option: Any) -> bool:
    """Return whether the option is a number that may also be `auto`."""
    return AUTO in (option.metavar or "").split("|") and _kind(option) is int


_KINDS = {"int": int, "float": float, "path": Path, "directory": Path, "file": Path}
"""The types of values, by the names of Typer's types without their range."""
