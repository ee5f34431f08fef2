"""commands.md: every command with its options, and the environment variables."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from page_blocks import anchor, bullets, code, link, plain, sentence, table, wrapped

from mlserve.cli.app import app
from mlserve.cli.defaults import all_settings
from mlserve.config.locate import VARIABLE
from mlserve.credentials import TOKEN_VARIABLE
from mlserve.options import described
from mlserve.settings import ServerSettings

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


def blocks() -> Iterator[str]:
    """The blocks of the page, under its title."""
    group: Any = typer.main.get_command(app)
    commands = dict(_all(group))
    listed = [name for names in _COMMAND_GROUPS.values() for name in names]
    if sorted(listed) != sorted(commands):
        raise ValueError(f"_COMMAND_GROUPS lacks a command, or has one too many: {listed}")
    yield wrapped(
        "Every command has `--help`, and `--config FILE` for its defaults "
        "([configuration.md](../configuration.md)). Data goes to standard output, everything else "
        "to standard error. With `--output json` the data is JSON, and so is an error, also that "
        "of a wrong option."
    )
    yield table(
        ("", "command", "what it does"),
        (
            ("" if index else theme, link(f"mlserve {name}", f"`{name}`"), _summary(command))
            for theme, names in _COMMAND_GROUPS.items()
            for index, name in enumerate(names)
            for command in [commands[name]]
        ),
    )
    yield wrapped(
        "[model-server.md](../model-server.md) has the flags of `mlserve-model-server`, which "
        "takes those of `tensorflow_model_server`."
    )
    for name in listed:
        yield from _command(name, commands[name])
    yield "## Options before the command"
    yield bullets(_option(p) for p in group.params if p.name not in _SHELL_COMPLETION)
    yield wrapped(
        "`mlserve --install-completion` completes commands and options in your shell; "
        "`mlserve --show-completion` prints what it would install."
    )
    yield "## Environment variables"
    yield bullets(f"`{name}`: {what}" for name, what in _variables(group))
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
    yield from map(wrapped, about.strip().split("\n\n"))
    yield code([" ".join(["mlserve", name, *map(_word, arguments), "[OPTIONS]"])])
    yield "For example:"
    yield code(map(_as_one_command, examples.strip().split("\n\n")))
    if arguments:
        yield bullets(f"`{_word(p)}`: {_help(p)}" for p in arguments)
    own = [p for p in options if p.name not in settings]
    for panel in dict.fromkeys(map(_panel, own)):
        yield f"**{panel}**"
        yield bullets(_option(p) for p in own if _panel(p) == panel)
    if settings:
        yield "**Settings of the server**"
        flags = (f"[`{s.flag}`](settings.md#{anchor(s.flag)})" for s in described(ServerSettings))
        yield wrapped(", ".join(flags))


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
    about, default, chosen = sentence(param.help).partition("Default:")
    if param.show_default and not (param.default is None or getattr(param, "is_flag", False)):
        default, chosen = "Default:", f" `{plain(param.default)}`."
    variable = f"Environment: `{param.envvar}`." if param.envvar else ""
    return " ".join(filter(None, (about.strip(), _range(param), default + chosen, variable)))


def _range(param: Any) -> str:
    least, most = getattr(param.type, "min", None), getattr(param.type, "max", None)
    if param.metavar == "PORT" or (most is None and least in (None, 0, 1)):
        return ""
    return f"At least {least}." if most is None else f"From {least} to {most}."


def _variables(group: Any) -> Iterator[tuple[str, str]]:
    named: dict[str, list[str]] = {}
    for setting in all_settings(group):
        for place, variable in zip(setting.tables, setting.variables, strict=True):
            if place != setting.command and variable != "MLSERVE_OUTPUT":
                named.setdefault(variable, [setting.option.opts[0]]).append(f"`{setting.command}`")
    for variable, (option, *commands) in named.items():
        yield variable, f"Stands for `{option}` of {', '.join(commands)}."
    yield from _VARIABLES.items()
