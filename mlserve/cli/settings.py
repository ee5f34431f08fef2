"""The options of `mlserve up` that come from `mlserve.settings`, one for each setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from mlserve.settings import Description, described

Command = TypeVar("Command", bound=Callable[..., None])


def with_settings(command: Command) -> Command:
    """The command with an option for each setting; it gets them as keyword arguments.

    Typer reads the options from the signature, where they stand in the place of `**settings`.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*own, *map(_parameter, described())]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _parameter(setting: Description) -> inspect.Parameter:
    option = typer.Option(
        setting.flag,
        help=setting.help,
        rich_help_panel=setting.panel.value,
        show_default=setting.default is not None,
    )
    kind = setting.kind if setting.default is not None else setting.kind | None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=setting.default,
        annotation=Annotated[kind, option],
    )
