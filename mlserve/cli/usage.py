"""Errors for command lines that cannot be parsed, with suggestions of what was meant.

Typer finds these mistakes before a command runs; they are turned into UsageErrors, so that the same
boundary prints them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mlserve.cli.defaults import (
    IS_JSON,
    JSON_FORMATS,
    config_option,
    drop_overridden,
    naming_origin,
    takes_auto,
)
from mlserve.errors import UsageError, either
from mlserve.hints import did_you_mean, nearest
from mlserve.options import AUTO

_COMMANDS = {
    "up": ("serve", "run", "start", "launch", "server"),
    "down": ("stop", "kill", "rm", "remove", "shutdown", "end"),
    "ps": ("list", "ls", "servers", "top"),
    "predict": ("infer", "query", "classify", "ask", "test", "request", "call", "label"),
    "export": ("convert", "save", "download", "pull", "add"),
    "metadata": ("info", "describe", "show", "inspect", "signatures"),
    "status": ("health", "ready", "ping", "wait"),
    "logs": ("log", "tail"),
    "compare": ("diff", "parity"),
    "bench": ("benchmark", "load", "perf", "stress"),
    "tune": ("optimize", "optimise", "autotune"),
    "deploy": ("kubernetes", "k8s", "helm", "kserve", "compose", "systemd", "monitoring"),
    "why": ("explain", "reason"),
    "build": ("image", "docker", "package"),
    "models": ("versions", "store", "registry", "artifacts", "use", "rollback", "prune", "verify"),
    "plugins": ("backends",),
    "config": ("settings", "configure", "init", "options"),
    "doctor": ("check", "diagnose", "env"),
}
"""Commands of other tools, by the command that does the same here."""
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "--port": ("--grpc-port", "--rest-port", "--endpoint"),
    "-p": ("--grpc-port", "--rest-port", "--endpoint"),
    "--url": ("--endpoint",),
    "--server": ("--endpoint",),
    "--address": ("--endpoint",),
    "--host": ("--endpoint",),
    "-e": ("--endpoint",),
    "--json": ("--output json",),
    "--format": ("--output",),
    "-o": ("--output",),
    "--dir": ("--path", "--store"),
    "--folder": ("--path", "--store"),
    "--out-dir": ("--store",),
    "--output-dir": ("--store",),
    "--model-path": ("--path", "--weights"),
    "--file": ("--weights",),
    "--checkpoint": ("--weights",),
    "--runtime": ("--backend",),
    "-b": ("--backend",),
    "--model-name": ("--model",),
    "--name": ("--model",),
    "-m": ("--model",),
    "-k": ("--top-k",),
    "-n": ("--tail", "--top-k"),
    "-t": ("--timeout",),
    "--deadline": ("--timeout",),
    "--device": ("--provider",),
    "--artifacts": ("--fetch-from",),
    "--gpu": ("--provider cuda",),
    "--workers": ("--instances",),
    "-V": ("--version",),
    "-v": ("--version",),
}
"""Options of other tools, by their possible names here; the first one that a command has is used.
"""
_OUTPUT = "--output"
_ASKS_FOR_JSON = re.compile(r"(^| )--output[ =]jsonl?( |$)")
_STYLE = re.compile(r"(?=\[[a-z#/@])")
"""Where a name of a style would begin in a text of the help."""
_WORDS = "mlserve.hints"
"""Key under which a context keeps the whole command line."""
_SAID = re.compile(r"(?:'(?P<quoted>.*)'|(?P<bare>\S+)) is not ")
"""Start of Typer's message about an invalid value."""


class Command(TyperCommand):
    """A command whose usage errors are UsageErrors."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help = _flowing(self.help)
        self.params.append(config_option())

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _brackets_kept(self):
            super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command's name."""
        ctx.allow_extra_args = True
        with naming_origin(ctx), _understood(ctx):
            rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            raise _extra_word(ctx, str(rest[0]))
        if "output" in ctx.params:
            ctx.meta[IS_JSON] = ctx.params["output"] in JSON_FORMATS
        drop_overridden(ctx)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with naming_origin(ctx):
            return super().invoke(ctx)


class CommandWithCommands(Command):
    """A command that has others below it, in `commands`: the first word may name one of them."""

    commands: Mapping[str, Any] = {}

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **more: Any) -> Any:
        """Parse the words after the command's name, for the command that they name."""
        below = self.commands.get(args[0]) if args else None
        if below is None:
            return super().make_context(info_name, args, parent, **more)
        bare = TyperCommand(name=self.name)  # its own arguments are no part of the others' usage
        between = self.context_class(bare, info_name=info_name, parent=parent)
        return below.make_context(args[0], args[1:], parent=between, **more)


def _flowing(text: str | None) -> str | None:
    """Return a help text with a line a paragraph, so that it fills a terminal of any width.

    Typer keeps the ends of lines from the second paragraph on: those of the docstring, at which a
    narrower terminal would break every line in two.
    """
    if text is None:
        return None
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def as_command(function: Any, cls: type[Command] = Command) -> Any:
    """Return the command that runs a function, of which Typer makes the options."""
    alone = typer.Typer(add_completion=False)
    alone.command(cls=cls)(function)
    return typer.main.get_command(alone)


class CommandGroup(TyperGroup):
    """The commands; a wrong name, or a wrong option before it, is a UsageError."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help = _flowing(self.help)
        if self.invoke_without_command:  # it is a command too
            self.params.append(config_option())

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _brackets_kept(self):
            super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words before the command's name; show the help if there are none."""
        if not args:
            return super().parse_args(ctx, args)
        ctx.meta[_WORDS] = tuple(args)
        with _understood(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first word names."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise _unknown_command(ctx, self, args)
        return super().resolve_command(ctx, args)


def asks_for_json(args: Sequence[str]) -> bool:
    """Return whether a command line asks for JSON, even if the rest of it is invalid."""
    words = list(args)
    if "--" in words:
        words = words[: words.index("--")]
    return _ASKS_FOR_JSON.search(" ".join(words)) is not None


@contextmanager
def _understood(ctx: Any) -> Iterator[None]:
    """Turn Typer's errors about the words into UsageErrors."""
    try:
        yield
    except typer.TyperException as error:
        raise _usage_error(ctx, error) from error


@contextmanager
def _brackets_kept(command: Any) -> Iterator[None]:
    """Mark what Typer would take for a style and leave out of the help: `[tool.mlserve]`."""
    texts = [(each, each.help) for each in (command, *command.params) if each.help]
    try:
        for each, text in texts:
            each.help = _STYLE.sub(r"\\", text)
        yield
    finally:
        for each, text in texts:
            each.help = text


def _usage_error(ctx: Any, error: typer.TyperException) -> UsageError:
    """Return the error in our words. Typer's classes are private, so attributes identify them."""
    name, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if name is not None and name not in _options_of(ctx.command):
        return _unknown_option(ctx, name)
    if name is not None:
        is_flag = any(p.is_flag for p in ctx.command.params if name in p.opts)
        wrong = "takes no value" if is_flag else "needs a value"
        return UsageError(f"{name} {wrong}", hint=_see_help(ctx))
    if param is not None and hasattr(error, "param_type"):
        what = param.metavar or _option(param)
        return UsageError(
            f"{ctx.command_path} needs {what}",
            hint=f"give it: {ctx.command_path} {what}; {_see_help(ctx)}",
        )
    if param is not None:
        return _bad_value(ctx, param, error.message)
    return UsageError(error.format_message().rstrip("."), hint=_see_help(ctx))


def _unknown_command(ctx: Any, group: CommandGroup, args: Sequence[str]) -> UsageError:
    word = args[0]
    known = [name for name, command in group.commands.items() if not command.hidden]
    if ctx.parent is None:
        meant = _meant_command(word, args[1:], known)
    else:
        meant = did_you_mean(word, known, f"{ctx.command_path} ")
    return UsageError(
        f"{word!r} is not a command of {ctx.command_path}",
        hint=meant or f"the commands are {', '.join(known)}",
    )


def _meant_command(word: str, rest: Sequence[str], known: Sequence[str]) -> str:
    lower = word.lower()
    if lower == "version":
        return "did you mean mlserve --version?"
    if lower == "help":
        about = f" {rest[0]}" if rest and rest[0] in known else ""
        return f"did you mean mlserve{about} --help?"
    if lower == "restart":
        return "stop it with mlserve down, and start it with mlserve up"
    same = next((name for name, words in _COMMANDS.items() if lower in words), None)
    found = same or nearest(word, known)
    if found is not None:
        return f"did you mean mlserve {found}?"
    if Path(word).exists() or lower.endswith((".jpg", ".jpeg", ".png")):
        return f"to ask a server about an image: mlserve predict {word}"
    return ""


def _unknown_option(ctx: Any, name: str) -> UsageError:
    own = _options_of(ctx.command)
    alike = nearest(name, own) if name.startswith("--") else None
    known = (*_OPTIONS.get(name, ()), alike or "")
    meant = next((option for option in known if option.partition(" ")[0] in own), None)
    return UsageError(
        f"{ctx.command_path} has no option {name}",
        hint=f"did you mean {meant}? {_see_help(ctx)}" if meant else _elsewhere(ctx, name),
    )


def _elsewhere(ctx: Any, name: str) -> str:
    """Name the commands that have the option that this one lacks."""
    group = ctx.find_root().command
    having = [
        command.name
        for command in group.commands.values()
        if name in _options_of(command) and not command.hidden
    ]
    if not having:
        return _see_help(ctx)
    if ctx.command is group:
        given = next((word for word in ctx.meta[_WORDS] if word in having), having[0])
        return f"options go after the command: mlserve {given} {name} ..."
    return f"it is an option of mlserve {either(having, 'and')}; {_see_help(ctx)}"


def _bad_value(ctx: Any, param: Any, said: str) -> UsageError:
    option = _option(param)
    match = _SAID.match(said)
    if match is None:
        return UsageError(f"{option}: {said.rstrip('.')}", hint=_see_help(ctx))
    value = match["quoted"] if match["bare"] is None else match["bare"]
    return UsageError(
        f"{value!r} is not a valid value of {option}", hint=_valid_values(ctx, param, value)
    )


def _valid_values(ctx: Any, param: Any, value: str) -> str:
    choices = [str(choice) for choice in getattr(param.type, "choices", ())]
    if choices:
        listed = f"choose {either(choices)}"
        if _option(param) == _OUTPUT and "--store" in _options_of(ctx.command):
            return f"{listed}; for a folder to write to or read from, use --store DIR"
        return did_you_mean(value, choices) + listed
    kind = "a whole number" if "int" in param.type.name else "a number"
    low, high = getattr(param.type, "min", None), getattr(param.type, "max", None)
    if low is not None and high is not None:
        kind += f" from {low} to {high}"
    elif low is not None:
        kind += f", {low} or more"
    elif takes_auto(param):
        kind += f" or {AUTO}"
    return f"give {kind}"


def _extra_word(ctx: Any, word: str) -> UsageError:
    own = _options_of(ctx.command)
    return UsageError(
        f"{ctx.command_path} does not take {word!r}",
        hint=meant_option(word, own) or _see_help(ctx),
    )


def meant_option(word: str, options: Collection[str]) -> str | None:
    """Return a hint that names the option which takes the word as its value; None if none does."""
    fitting = (option for option, fits in _guesses(word) if fits and option in options)
    option = next(fitting, None)
    return None if option is None else f"did you mean {option} {word}?"


def _guesses(word: str) -> Iterator[tuple[str, bool]]:
    """Yield options that may take the word as their value, and whether it looks like one."""
    from mlserve import plugins

    path = Path(word)
    yield "--backend", word in plugins.backend_names()
    yield "--path", path.is_dir()
    yield "--weights", path.exists()
    yield "--endpoint", ":" in word
    yield "--model", not path.exists()


def _options_of(command: Any) -> list[str]:
    """Return every spelling of every option of a command."""
    found = (name for param in command.params for name in (*param.opts, *param.secondary_opts))
    return [name for name in found if name.startswith("-")]


def _option(param: Any) -> str:
    """Return an option's long form, or an argument's metavar."""
    names = [name for name in param.opts if name.startswith("--")]
    return str(names[0] if names else param.metavar or param.human_readable_name)


def _see_help(ctx: Any) -> str:
    return f"see {ctx.command_path} --help"
