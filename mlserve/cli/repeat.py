"""The command line that does again what the running command does, for its report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from enum import Enum
from typing import Any

from mlserve.cli.defaults import command_name

_GIVEN = frozenset({"COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP"})
"""Typer's names for the sources of values that the options do not have by themselves."""


def command_line(ctx: Any) -> str:
    """Return the command with everything that was given to it, for a shell in the same folder.

    What came from the environment or the configuration file stands in it as options, so that it
    does the same elsewhere.
    """
    arguments, options = list[str](), list[str]()
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        if source is not None and source.name in _GIVEN and parameter.name in ctx.params:
            is_argument = parameter.param_type_name == "argument"
            given = _words(parameter, ctx.params[parameter.name])
            (arguments if is_argument else options).extend(given)
    words = [*arguments, *options]
    if any(word.startswith("-") and word != "-" for word in arguments):
        words = [*options, "--", *arguments]  # a file that looks like an option
    return " ".join(map(_quoted, ["mlserve", *command_name(ctx).split(), *words]))


def _words(parameter: Any, value: Any) -> Iterator[str]:
    """Yield the words that give this value to an argument or an option."""
    if value is None:
        return
    if parameter.param_type_name == "argument":
        yield from map(_text, value if isinstance(value, list | tuple) else [value])
    elif isinstance(value, bool) and parameter.is_flag:
        flags = parameter.opts if value else parameter.secondary_opts
        yield from flags[:1]
    else:
        for each in value if isinstance(value, list | tuple) else [value]:
            yield from (parameter.opts[0], _text(each))


def _text(value: Any) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)


def _quoted(word: str) -> str:
    """Return a word for the shell: as it is, in quotes, or as bytes if it cannot be shown."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'{}'".format("".join(map(_escaped, word)))


def _escaped(char: str) -> str:
    if char.isprintable():
        return f"\\{char}" if char in "\\'" else char
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(char))
