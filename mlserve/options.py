"""Options as dataclass fields: from one field come a flag, a command's option and its checks.

`Options` is the base of `mlserve.settings.ServerSettings` and `mlserve.load_options.LoadOptions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Self, get_args, get_type_hints

from mlserve.deadline import check_seconds
from mlserve.errors import UsageError, bounded

if TYPE_CHECKING:
    from argparse import ArgumentParser


AUTO = "auto"
"""The value of an option that leaves a number to the server."""


class HelpPanel(StrEnum):
    """The heading of a setting in `mlserve up --help`."""

    MODEL = "The model"
    LOAD = "Under load"
    LIMITS = "Limits"
    ACCESS = "Access"
    LOGS = "Logs"
    RECORDING = "Recording"
    ROLLOUT = "A second version"
    CLUSTER = "On a cluster"


def option(
    panel: HelpPanel,
    text: str,
    *,
    unit: str = "",
    least: float | None = None,
    chosen: str = "",
    is_tuned: bool = False,
) -> dict[str, Any]:
    """Build the metadata of an option: all that its name, type and default do not say.

    `chosen` describes what the server chooses if the default is None. `mlserve tune` looks for the
    best value of an option that `is_tuned`.
    """
    return {
        "panel": panel,
        "text": text,
        "unit": unit,
        "least": least,
        "chosen": chosen,
        "is_tuned": is_tuned,
    }


@dataclass(frozen=True, slots=True)
class Description:
    """An option as data: the basis of a flag, a command's option or a table column."""

    name: str
    kind: type
    default: Any
    panel: HelpPanel
    text: str
    unit: str = ""
    least: float | None = None
    chosen: str = ""
    """What the server chooses if `default` is None."""
    is_tuned: bool = False
    """Whether `mlserve tune` looks for its best value."""

    @property
    def help(self) -> str:
        """Return the help text, with the default if it is not a plain value."""
        return f"{self.text} Default: {self.chosen}." if self.chosen else self.text

    @property
    def metavar(self) -> str | None:
        """Return the help's placeholder for a value; None for a choice, which lists its own."""
        if self.kind is Path:
            return self.unit.upper() or "FILE"
        if self.takes_auto:
            return f"{self.unit.upper()}|{AUTO}"
        return self.unit.upper() or None

    @property
    def takes_auto(self) -> bool:
        """Whether it is a number that the server can choose: `auto` is the same as no value."""
        return self.is_tuned and self.kind is int and self.default is None

    @property
    def flag(self) -> str:
        """Return the flag: `--max-queue` for `max_queue`."""
        return flag_of(self.name)

    def read(self, value: Any) -> Any:
        """Convert a string or a JSON value to the setting's value. Raises UsageError."""
        try:
            if self.takes_auto and value == AUTO:
                return None
            if self.kind is bool and isinstance(value, str):
                return _BOOLEANS[value.lower()]
            return None if value is None else self.kind(value)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise _not_a_value(self.flag, value, self.kind) from error

    def check(self, value: Any) -> None:
        """Raise UsageError for a number that is too small or too large, or is not a number."""
        if self.least is None or value is None:
            return
        takes = int if self.kind is int else Real
        is_number = isinstance(value, takes) and not isinstance(value, bool)
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise _not_a_value(self.flag, value, self.kind)
        if value < self.least:
            raise UsageError(
                f"{self.flag} must be at least {_whole(self.least)}, not {bounded(f'{value}')}",
                hint="leave it out to take the default: "
                + ("chosen by the server" if self.default is None else str(self.default)),
            )
        if self.kind is float:
            check_seconds(self.flag, value)
        elif value > _MOST:
            raise UsageError(
                f"{self.flag} must be at most {_MOST}, not {bounded(str(value))}",
                hint="give a smaller number",
            )


class Options:
    """The base of a dataclass whose fields are options, each with a default and `option` metadata.

    Raises UsageError for a value below its least.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for item in described(type(self)):
            item.check(getattr(self, item.name))

    @property
    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            item.name: value
            for item in described(type(self))
            if (value := getattr(self, item.name)) != item.default
        }

    def argv(self) -> list[str]:
        """Return the flags of the server process that set these options."""
        return [f"{flag_of(name)}={value}" for name, value in self.changed.items()]

    def to_json(self) -> dict[str, Any]:
        """Return all options as data for `from_json`."""
        values = {item.name: getattr(self, item.name) for item in described(type(self))}
        return {k: str(value) if isinstance(value, Path) else value for k, value in values.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read the output of `to_json`. A missing option gets its default."""
        return cls(**{i.name: i.read(data[i.name]) for i in described(cls) if i.name in data})

    @classmethod
    def taken_from(cls, values: dict[str, Any]) -> Self:
        """Pick these options from the values of a whole command line."""
        return cls(**{item.name: values.pop(item.name) for item in described(cls)})


def described(options: type[Options]) -> tuple[Description, ...]:
    """Describe every option of such a class, in field order."""
    return _described(options)  # type: ignore[arg-type]  # mypy takes no class for hashable


def add_flags(parser: ArgumentParser, options: type[Options]) -> None:
    """Let a parser take a flag for every option of such a class. A switch may stand alone."""
    for item in described(options):
        alone: dict[str, Any] = {"nargs": "?", "const": True} if item.kind is bool else {}
        # argparse formats the text of a help with %.
        text = item.help.replace("%", "%%")
        parser.add_argument(item.flag, type=item.read, default=item.default, help=text, **alone)


@cache
def _described(options: Any) -> tuple[Description, ...]:
    kinds = get_type_hints(options)
    return tuple(
        Description(item.name, _kind(kinds[item.name]), item.default, **item.metadata)
        for item in fields(options)
    )


def _kind(hint: Any) -> type:
    """Return the type of an option's values if set: `int` for `int | None`."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] or [hint]
    kind: type = kinds[0]
    return kind


def _not_a_value(flag: str, value: object, kind: type) -> UsageError:
    if issubclass(kind, StrEnum):
        takes = " or ".join(kind)
    else:
        takes = {int: "a whole number", float: "a number", bool: "true or false"}.get(
            kind, "a path"
        )
    shown = f"{value:g}" if isinstance(value, float) else value
    return UsageError(f"{str(shown)!r} is not a valid value of {flag}", hint=f"give {takes}")


def _whole(number: float) -> str:
    """Return a number in full: a count of bytes is not to be read as 1.04858e+06."""
    return f"{number:g}" if isinstance(number, float) else str(number)


def flag_of(name: str) -> str:
    """The flag of that setting."""
    return "--" + name.replace("_", "-")


_BOOLEANS = {"true": True, "false": False}
_MOST = 2**63 - 1
"""The largest number that a setting can have: a signed 64-bit integer."""
