"""Writes commands.md, settings.md and errors.md, beside this file, from the code.

`make reference` runs it; `tests/test_reference.py` fails while a page is not what it writes.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from http import HTTPStatus
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import typer

from mlserve import errors
from mlserve.cli.app import app
from mlserve.cli.defaults import all_settings
from mlserve.config.locate import VARIABLE
from mlserve.credentials import TOKEN_VARIABLE
from mlserve.errors import ExitCode, MlserveError, Transient
from mlserve.options import Description, described
from mlserve.settings import ServerSettings
from mlserve.wire import status as wire

FOLDER = Path(__file__).parent
WIDTH = 100
_MADE = "<!-- Made from the code by docs/reference/generate.py: run `make reference`. -->"

_COMMAND_GROUPS = {
    "Make": ("export", "build"),
    "Run": ("up", "ps", "logs", "down"),
    "Deploy": (
        *("deploy", "deploy kubernetes", "deploy helm", "deploy kserve"),
        *("deploy compose", "deploy systemd", "deploy monitoring"),
    ),
    "Ask": ("predict", "gate", "gate calibrate", "gate verify", "status", "metadata"),
    "Keep": (
        *("models", "models list", "models show", "models verify", "models sign"),
        *("models use", "models rm", "models copy", "models prune"),
    ),
    "Check": ("compare", "certify", "bench", "replay", "tune", "why", "audit", "doctor", "plugins"),
    "Configure": ("config", "config show", "config check", "config init"),
    "Extend": ("plugins new",),
}
_SHELL_COMPLETION = ("install_completion", "show_completion")
_VARIABLES = {
    "MLSERVE_OUTPUT": "Stands for `--output` of every command that has it.",
    "MLSERVE_COMMAND_OPTION": "Stands for that option of that command: `MLSERVE_UP_MAX_QUEUE`. "
    "`mlserve config show --all` lists what can be set.",
    VARIABLE: "The configuration file, as `--config`.",
    TOKEN_VARIABLE: "The server's token itself, for a client; `MLSERVE_TOKEN_FILE` goes first.",
    "MLSERVE_HOME": "One folder for everything that mlserve writes, in place of the user's cache, "
    "data and state folders.",
    "MLSERVE_TFHUB_URL": "A mirror of TF-Hub, for `mlserve export`.",
    "TFHUB_CACHE_DIR": "TensorFlow Hub's own cache of downloaded models.",
    "LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID": "Listening sockets for `mlserve up --foreground`, as "
    "systemd passes them, named `grpc` and `rest`.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Where systemd is told how the server is, and how often.",
    "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY": "Proxies for a client, in capitals or small "
    "letters.",
}
"""The environment variables that are not the variable of one option."""

DETAILS = {
    "max_queue": "With 0, a request that cannot start at once is refused.",
    "max_queue_bytes": "The memory is the machine's, or what the cgroups of the server allow where "
    "that is less.",
    "max_batch_size": "How many batches run at once stays as the runtime says, where it does.",
    "max_batch_delay": "A batch never waits past the earliest deadline in it.",
    "max_request_bytes": "A request compressed with gzip or deflate must also fit once it is "
    "decompressed.",
    "max_body_memory": "What counts against it is in [serve.md](../serve.md#limits).",
    "max_pixels": "An image with more is never decoded, so a decompression bomb costs nothing.",
    "max_request_pixels": "An image that is repeated to fill a shape counts each time.",
    "max_side": "The default is the most that a JPEG can have.",
    "max_scans": "The decoder goes over the whole image for each scan.",
    "max_decode_bytes": "Why: [security.md](../security.md#what-an-image-may-cost).",
    "header_timeout": "This holds for both ports, and for a TLS handshake.",
    "max_connections": "Where the limit on open files allows fewer, the server takes fewer and "
    "says so in its log.",
    "token_file": "Health checks need no token. How to make one: "
    "[deploy.md](../deploy.md#tokens-and-tls). With several, each has a name: "
    "[serve.md](../serve.md#several-tokens).",
    "max_share": "Needs `--token-file`, which has the names: "
    "[serve.md](../serve.md#several-tokens).",
    "tls_cert": "Needs `--tls-key`.",
    "tls_key": "Needs `--tls-cert`.",
    "tls_client_ca": "Needs `--tls-cert`.",
    "page": "What they do: [page.md](../page.md). `--no-page` leaves them out.",
    "model_control": "The requests are in [open-inference.md](../open-inference.md#extensions).",
    "log_format": "`json` writes one object a line; [observability.md](../observability.md#log) "
    "lists its fields.",
    "log_requests": "Health checks and scrapes are never shown.",
    "record": "It is made for this user alone. What is kept is in [replay.md](../replay.md).",
    "record_bodies": "Needs `--record`.",
    "record_bytes": "All recordings in the folder count, also those of other servers. A body or an "
    "answer of more than a sixteenth of it is left out.",
    "otlp": "What is sent, and which variables hold: "
    "[observability.md](../observability.md#opentelemetry).",
}
"""What the page adds to the help of a setting."""

_LOCAL = (ExitCode.PLUGIN, ExitCode.EXPORT)
"""The exit codes of errors that happen before a server is asked, so never on the wire."""
_PACKAGES_OF_COMMANDS = ("mlserve.cli", "mlserve.client", "mlserve.launch")


def pages() -> dict[str, str]:
    """The text of each page, by its file name."""
    return {
        "commands.md": _page("Commands", _commands()),
        "settings.md": _page("Settings of the server", _settings()),
        "errors.md": _page("Errors and exit codes", _errors()),
    }


def _page(title: str, blocks: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", _MADE, *blocks]) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    """The text in lines of at most `WIDTH`, of which all but the first are indented."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _list(items: Iterable[str]) -> str:
    return "\n".join(_wrapped(f"- {item}", "  ") for item in items)


def _code(lines: Iterable[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(header)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _link(heading: str, shown: str) -> str:
    return f"[{shown}](#{anchor(heading)})"


# Commands


def _commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    commands = dict(_all(group))
    listed = [name for names in _COMMAND_GROUPS.values() for name in names]
    if sorted(listed) != sorted(commands):
        raise ValueError(f"_COMMAND_GROUPS lacks a command, or has one too many: {listed}")
    yield _wrapped(
        "Every command has `--help`, and `--config FILE` for its defaults "
        "([configuration.md](../configuration.md)). Data goes to standard output, everything else "
        "to standard error. With `--output json` the data is JSON, and so is an error, also that "
        "of a wrong option."
    )
    yield _table(
        ("", "command", "what it does"),
        (
            ("" if index else theme, _link(f"mlserve {name}", f"`{name}`"), _summary(command))
            for theme, names in _COMMAND_GROUPS.items()
            for index, name in enumerate(names)
            for command in [commands[name]]
        ),
    )
    yield _wrapped(
        "[model-server.md](../model-server.md) has the flags of `mlserve-model-server`, which "
        "takes those of `tensorflow_model_server`."
    )
    for name in listed:
        yield from _command(name, commands[name])
    yield "## Options before the command"
    yield _list(_option(p) for p in group.params if p.name not in _SHELL_COMPLETION)
    yield _wrapped(
        "`mlserve --install-completion` completes commands and options in your shell; "
        "`mlserve --show-completion` prints what it would install."
    )
    yield "## Environment variables"
    yield _list(f"`{name}`: {what}" for name, what in _variables(group))
    yield "## Exit codes"
    yield "[errors.md](errors.md#exit-codes) has them, beside the errors that lead to them."


def _all(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command and its name, `plugins new` for one below another."""
    for name, command in group.commands.items():
        yield before + name, command
        yield from _all(command, f"{name} ") if hasattr(command, "commands") else ()


def _command(name: str, command: Any) -> Iterator[str]:
    every = {setting.name for setting in described(ServerSettings)}
    settings = every if every <= {p.name for p in command.params} else set()
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "config"]
    yield f"## mlserve {name}"
    about, _, examples = inspect.cleandoc(command.help).partition("For example:")
    yield from map(_wrapped, about.strip().split("\n\n"))
    yield _code([" ".join(["mlserve", name, *map(_word, arguments), "[OPTIONS]"])])
    yield "For example:"
    yield _code(map(_as_one_command, examples.strip().split("\n\n")))
    if arguments:
        yield _list(f"`{_word(p)}`: {_help(p)}" for p in arguments)
    own = [p for p in options if p.name not in settings]
    for panel in dict.fromkeys(map(_panel, own)):
        yield f"**{panel}**"
        yield _list(_option(p) for p in own if _panel(p) == panel)
    if settings:
        yield "**Settings of the server**"
        flags = (f"[`{s.flag}`](settings.md#{anchor(s.flag)})" for s in described(ServerSettings))
        yield _wrapped(", ".join(flags))


def _as_one_command(example: str) -> str:
    """An example in lines that a shell takes for one command."""
    lines = textwrap.wrap(example, 96, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _summary(command: Any) -> str:
    return " ".join(command.help.partition("\n\n")[0].split()).rstrip(".")


def _panel(param: Any) -> str:
    return param.rich_help_panel or "Options"


def _word(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required else f"[{word}]"


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in reversed(param.opts))
    value = "" if param.is_flag else f" `{_value(param)}`"
    return f"{names}{value}: {_help(param)}".replace("` `", " ")


def _value(param: Any) -> str:
    choices = getattr(param.type, "choices", None)
    if not param.metavar and not choices:
        raise ValueError(f"{param.opts[0]} needs a metavar, or the help shows a bare type")
    return param.metavar or "|".join(map(str, choices))


def _help(param: Any) -> str:
    about, default, chosen = _sentence(param.help).partition("Default:")
    if param.show_default and not (param.default is None or getattr(param, "is_flag", False)):
        default, chosen = "Default:", f" `{_plain(param.default)}`."
    variable = f"Environment: `{param.envvar}`." if param.envvar else ""
    return " ".join(filter(None, (about.strip(), _range(param), default + chosen, variable)))


def _sentence(text: str) -> str:
    """A help text as Markdown: options become code, and an asterisk stays one."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else _OPTION.sub(r"`\g<0>`", piece).replace("*", r"\*")
        for piece in pieces
    )


_OPTION = re.compile(r"--[a-z]+(?:-[a-z]+)*(?:=[^\s,]*[^\s,.])?")


def _range(param: Any) -> str:
    least, most = getattr(param.type, "min", None), getattr(param.type, "max", None)
    if param.metavar == "PORT" or (most is None and least in (None, 0, 1)):
        return ""
    return f"At least {least}." if most is None else f"From {least} to {most}."


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _variables(group: Any) -> Iterator[tuple[str, str]]:
    named: dict[str, list[str]] = {}
    for setting in all_settings(group):
        for table, variable in zip(setting.tables, setting.variables, strict=True):
            if table != setting.command and variable != "MLSERVE_OUTPUT":
                named.setdefault(variable, [setting.option.opts[0]]).append(f"`{setting.command}`")
    for variable, (option, *commands) in named.items():
        yield variable, f"Stands for `{option}` of {', '.join(commands)}."
    yield from _VARIABLES.items()


# Settings


def _settings() -> Iterator[str]:
    yield _wrapped(
        "Each setting is an option of `mlserve up`, a flag of `python -m mlserve.server`, and so "
        "an argument of `docker run` after an image of `mlserve build`. The server names its "
        "limits in its log and in `GET /v2`, and every refusal names the flag of its limit. Times "
        "are in seconds, at most 10^9. [serve.md](../serve.md) explains how the settings "
        "work together, [deploy.md](../deploy.md) how to put a server on a network."
    )
    yield _table(
        ("setting", "default", "unit"),
        (
            (_link(s.flag, f"`{s.flag}`"), _default(s), s.unit.replace("|", " or "))
            for s in described(ServerSettings)
        ),
    )
    for panel, settings in groupby(described(ServerSettings), key=lambda setting: setting.panel):
        yield f"## {panel.value}"
        for setting in settings:
            yield f"### {setting.flag}"
            yield _wrapped(f"{_sentence(setting.text)} {DETAILS.get(setting.name, '')}".rstrip())
            yield f"*{', '.join(filter(None, _facts(setting)))}*"


def _facts(setting: Description) -> Iterator[str]:
    if issubclass(setting.kind, Enum):
        yield "one of " + ", ".join(f"`{choice.value}`" for choice in setting.kind)
    elif setting.kind is bool:
        yield "a switch"
    elif setting.kind is Path:
        yield "a folder" if setting.metavar == "DIR" else "a file"
    else:
        yield setting.unit
    yield f"default {_default(setting)}"
    if setting.least is not None:
        yield f"at least {_plain(setting.least)}{_in_words(setting.least, setting.unit)}"


def _default(setting: Description) -> str:
    value = setting.default
    if value is None:
        return _sentence(setting.chosen) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{_plain(value)}`{_in_words(value, setting.unit)}"


def _in_words(value: Any, unit: str) -> str:
    """A large number as people say it; nothing for a small one."""
    if unit == "bytes" and value and value % 2**20 == 0:
        return f" ({value // 2**20} MiB)"
    if isinstance(value, int) and value >= 10**6 and value % 10**6 == 0:
        return f" ({value // 10**6} million)"
    return ""


# Errors


def _errors() -> Iterator[str]:
    yield _wrapped(
        "Every failure has an exit code, an `error:` line that names the value at fault, and a "
        "`hint:` line with the next step, both on standard error. In Python it is a class of "
        "`mlserve` with `message`, `hint` and `details`."
    )
    yield "## Exit codes"
    yield _exit_codes()
    yield _wrapped(
        "One bad file among many does not stop `mlserve predict`: its exit code is that of the "
        "first error. `mlserve compare` ends with 0 only if all labels agree and every difference "
        "is inside `--tolerance`, so that it can gate a release."
    )
    yield "## All errors"
    yield _table(
        ("error", "kind", "exit code", "gRPC", "HTTP", "retried"),
        (
            (
                _link(error.__name__, f"`{error.__name__}`"),
                f"`{_kind(error)}`",
                str(int(error.exit_code)),
                *_on_the_wire(error),
                "yes" if issubclass(error, Transient) else "no",
            )
            for error in _classes()
        ),
    )
    yield _wrapped(
        "*kind* is the error's name in JSON, in the server's log and in the label `code` of its "
        "[metrics](../observability.md). *gRPC* and *HTTP* are what mlserve's own server answers, "
        "on both of its protocols. *retried*: the client asks again, up to `--max-attempts` times "
        "within the one deadline, and after the time that the server names (`Retry-After` in "
        "seconds on REST, `grpc-retry-pushback-ms` on gRPC)."
    )
    for error in _classes():
        about, _, remedy = inspect.cleandoc(error.__doc__ or "").partition("\n\n")
        yield f"### {error.__name__}"
        yield _wrapped(about)
        yield _wrapped(f"**What to do:** {remedy}")
    yield from _errors_as_json()
    yield from _statuses()


def _exit_codes() -> str:
    by_code: dict[ExitCode, list[str]] = {}
    for error in _classes():
        link = _link(error.__name__, f"`{error.__name__}`")
        by_code.setdefault(error.exit_code, []).append(link)
    return _table(
        ("code", "what happened", "errors"),
        ((str(int(code)), code.meaning, ", ".join(by_code.get(code, []))) for code in ExitCode),
    )


def _classes() -> Iterator[type[MlserveError]]:
    """The errors that can be raised, in the order of their source."""
    for error in vars(errors).values():
        is_error = inspect.isclass(error) and issubclass(error, MlserveError)
        if is_error and error not in (MlserveError, Transient):
            yield error


def _kind(error: type[MlserveError]) -> str:
    return error("").kind


def _on_the_wire(error: type[MlserveError]) -> tuple[str, str]:
    if error.exit_code in _LOCAL:
        return "-", "-"
    return wire.grpc_status(error("")), str(wire.http_status(error("")))


def _errors_as_json() -> Iterator[str]:
    yield "## As JSON"
    yield _wrapped(
        'With `--output json` an error is `{"error": {...}}` on standard error. `kind`, '
        "`message`, `hint` and `exit_code` are always there. A call to a server adds `retries` "
        "(the failed attempts), `request_id`, `trace_id` and `timings_ms`; a server that did not "
        "start adds the end of its `log`."
    )
    yield _wrapped(
        "A few errors of the command line have a `kind` of their own, and the exit code of the "
        "error that they belong to:"
    )
    yield _table(
        ("kind", "what happened", "belongs to"),
        (
            (f"`{_kind(error)}`", _meaning(error), _link(parent.__name__, f"`{parent.__name__}`"))
            for error, parent in _narrower()
        ),
    )


def _meaning(error: type[MlserveError]) -> str:
    return " ".join(re.split("[;\n]\n?", inspect.cleandoc(error.__doc__ or ""))[0].split()).rstrip(
        "."
    )


def _narrower() -> Iterator[tuple[type[MlserveError], type[MlserveError]]]:
    """The errors of the command line that have a kind of their own, each with its parent."""
    for package in map(import_module, _PACKAGES_OF_COMMANDS):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for parent in _classes():
        for error in sorted(parent.__subclasses__(), key=_kind_or_name):
            is_ours = error.__module__.startswith((*_PACKAGES_OF_COMMANDS, "mlserve.plugins"))
            if is_ours and _kind(error) != _kind(parent):
                yield error, parent


def _kind_or_name(error: type[MlserveError]) -> str:
    return error.__name__


def _statuses() -> Iterator[str]:
    yield "## What the client makes of a server's status"
    yield _wrapped(
        "This holds for every server, also for one that is not mlserve's. Where the words of a "
        "known server say more than its status, they decide: TensorFlow Serving and Triton, for "
        "instance, have no status of their own for a request that expired in their queue. A status "
        "that is not listed is `InferenceFailed`."
    )
    by_error: dict[type[MlserveError], tuple[list[str], list[str]]] = {}
    for code in grpc.StatusCode:
        error = wire.error_from_grpc(code.name)
        by_error.setdefault(error, ([], []))[0].append(code.name)
    for http in HTTPStatus:
        error = wire.error_from_http(http.value)
        by_error.setdefault(error, ([], []))[1].append(str(http.value))
    yield _table(
        ("error", "gRPC", "HTTP"),
        (
            (_link(error.__name__, f"`{error.__name__}`"), *map(", ".join, by_error[error]))
            for error in _classes()
            if error in by_error and error is not errors.InferenceFailed
        ),
    )


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
