"""Arguments and options that several commands share, each declared once.

`with_options` makes options of the fields of a class (`mlserve.options.Options`): those of `up` are
`mlserve.load_options` and `mlserve.settings`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from mlserve.cli import completion
from mlserve.options import Description, Options, described, flag_of

Command = TypeVar("Command", bound=Callable[..., None])
NameArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The server's name, as `mlserve ps` lists it. Default: the only one.",
        autocompletion=completion.servers,
        show_default=False,
    ),
]
ExportedBackendOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The backend. Default: the one that has an exported model.",
        autocompletion=completion.backends,
    ),
]
ExportedModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model. Default: the only exported one.",
        autocompletion=completion.models,
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of exported models. Default: `models` in your data folder, or in "
        "MLSERVE_HOME.",
    ),
]
SignatureOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The signature to ask. Default: serving_default."),
]
OutputsOption = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="The outputs to ask for. Default: all."),
]


def names_in(option: str | None) -> tuple[str, ...] | None:
    """Return the names in an option such as `--outputs a,b`; None if it is not given."""
    return None if option is None else tuple(map(str.strip, option.split(",")))


def with_options(*groups: type[Options]) -> Callable[[Command], Command]:
    """Decorate a command with an option for each field of these classes, passed by keyword.

    Typer reads the options from the signature, where they replace `**options`.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters += [_parameter(item) for group in groups for item in described(group)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(setting: Description) -> inspect.Parameter:
    off = f"/{flag_of(f'no_{setting.name}')}" if setting.default is True else ""
    option = typer.Option(
        f"{setting.flag}{off}",
        metavar=setting.metavar,
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
