"""Arguments and options that several commands share, each declared once.

`with_options` makes options of the fields of a class (`mlserve.options.Options`): those of `up` are
`mlserve.load_options` and `mlserve.settings`. `with_fields` does so for groups of options that only
the command line has, such as the server to ask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from mlserve.cli import completion
from mlserve.errors import UsageError
from mlserve.options import AUTO, Description, Options, described, flag_of

Command = TypeVar("Command", bound=Callable[..., None])
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


def server_name(complete: Callable[[typer.Context], Iterable[str]]) -> Any:
    """Return the argument that names a server, of those that `complete` offers to Tab."""
    return typer.Argument(
        metavar="NAME",
        help="The server's name, as `mlserve ps` lists it. Default: the only one.",
        autocompletion=complete,
        show_default=False,
    )


def require_none_of(*options: tuple[str, object], why: str, hint: str) -> None:
    """Raise UsageError, which names it and says why, for an option that is not None."""
    for option, value in options:
        if value is not None:
            raise UsageError(f"{option} {why}", hint=hint)


_COMPLETED = {"shadow": completion.versions}
"""What Tab offers for a setting, by its name."""


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


def with_fields(command: Command) -> Command:
    """Decorate a command: a parameter whose type is a dataclass becomes an option for each field.

    The options stand in its place in the help, and the command gets the dataclass made of them.
    """
    signature = inspect.signature(command, eval_str=True)
    kinds = {name: each.annotation for name, each in signature.parameters.items()}
    groups: dict[str, type] = {
        name: kind for name, kind in kinds.items() if isinstance(kind, type) and is_dataclass(kind)
    }

    @wraps(command)
    def run(**values: Any) -> None:
        made = {name: _taken_from(group, values) for name, group in groups.items()}
        command(**made, **values)

    parameters: list[inspect.Parameter] = []
    for name, each in signature.parameters.items():
        parameters += fields_of(groups[name]) if name in groups else [each]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]


@cache
def fields_of(group: type) -> tuple[inspect.Parameter, ...]:
    """Return the options of such a dataclass: one parameter for each field, given by name."""
    fields = inspect.signature(group, eval_str=True).parameters.values()
    return tuple(field.replace(kind=field.KEYWORD_ONLY) for field in fields)


def _taken_from(group: type, values: dict[str, Any]) -> Any:
    """Make such a dataclass of its values among those of a whole command line."""
    return group(**{field.name: values.pop(field.name) for field in fields_of(group)})


def _parameter(setting: Description) -> inspect.Parameter:
    off = f"/{flag_of(f'no_{setting.name}')}" if setting.default is True else ""
    option = typer.Option(
        f"{setting.flag}{off}",
        metavar=setting.metavar,
        help=setting.help,
        rich_help_panel=setting.panel.value,
        autocompletion=_COMPLETED.get(setting.name),
        show_default=setting.default is not None,
        parser=_whole_or_auto if setting.takes_auto else None,
    )
    kind = setting.kind if setting.default is not None else setting.kind | None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=setting.default,
        annotation=Annotated[kind, option],
    )


def _whole_or_auto(value: str | int) -> int | None:
    """Read a whole number; None for `auto`. Raises BadParameter."""
    if value == AUTO:
        return None
    try:
        return int(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a valid integer") from None


_whole_or_auto.__name__ = "int"  # by its name, Typer and `defaults` tell the type of a value
