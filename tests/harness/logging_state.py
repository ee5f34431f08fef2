"""The logging of a process, as far as one module of tests could spoil it for the next."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class _Setting(NamedTuple):
    level: int
    disabled: bool
    propagate: bool
    filters: tuple[object, ...]
    handlers: tuple[logging.Handler, ...]


_UNTOUCHED = _Setting(logging.NOTSET, False, True, (), ())


@contextmanager
def unchanged() -> Iterator[None]:
    """Raise AssertionError if the block leaves changed whether and where mlserve's records go.

    They are put back all the same, so that nothing else fails because of the block.
    """
    disabled, before, levels = logging.root.manager.disable, _settings(), _levels_of_pytest()
    yield
    after = _settings()
    told = [
        f"{name}: {_difference(before.get(name, _UNTOUCHED), now)}"
        for name, now in after.items()
        if before.get(name, _UNTOUCHED) != now
    ]
    if logging.root.manager.disable != disabled:
        told.append(f"logging.disable({logging.root.manager.disable})")
    logging.disable(disabled)
    for handler, level in _levels_of_pytest().items():
        if level != levels.get(handler, level):
            told.append(
                f"the level of {type(handler).__name__} is {level}: caplog misses what is below"
            )
            handler.setLevel(levels[handler])
    for name in after:
        _put_back(name, before.get(name, _UNTOUCHED))
    assert not told, f"these tests leave logging changed: {'; '.join(told)}"


def _settings() -> dict[str, _Setting]:
    """The settings of the root logger and of those of mlserve and its plugins, by name."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("mlserve")]
    return {name: _setting(logging.getLogger(name)) for name in ("root", *names)}


def _setting(logger: logging.Logger) -> _Setting:
    """pytest's own handlers, which come and go with each phase of a test, are left out."""
    handlers = (each for each in logger.handlers if not _is_of_pytest(each))
    filters = tuple(logger.filters)
    return _Setting(logger.level, logger.disabled, logger.propagate, filters, tuple(handlers))


def _levels_of_pytest() -> dict[logging.Handler, int]:
    """The levels of pytest's own handlers, which it also gives to loggers that do not propagate."""
    return {each: each.level for each in logging.root.handlers if _is_of_pytest(each)}


def _put_back(name: str, setting: _Setting) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(setting.level)
    logger.disabled, logger.propagate = setting.disabled, setting.propagate
    logger.filters = list(setting.filters)
    logger.handlers = [*setting.handlers, *filter(_is_of_pytest, logger.handlers)]


def _is_of_pytest(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("_pytest.")


def _difference(before: _Setting, now: _Setting) -> str:
    pairs = zip(_Setting._fields, before, now, strict=True)
    return ", ".join(f"{what} {old!r} became {new!r}" for what, old, new in pairs if old != new)
