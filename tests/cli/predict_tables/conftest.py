"""What the tests of tables share: a table, and the command that asks about its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from tests.harness.command import Outcome


@pytest.fixture
def two(cli: Any, echo: Any, tmp_path: Path) -> Callable[..., Any]:
    """Asks the signature `two`, which gives the sum and the product of `a` and `b`.

    The command runs in this process, which is quicker; in one of its own if it has options, such as
    its standard input.
    """

    def ask(*words: object, protocol: str = "grpc", **options: Any) -> Outcome:
        where = ("--signature", "two", "--endpoint", echo.endpoint(protocol), "--timeout", 30)
        if options:
            return cli("predict", *words, *where, **options)
        line = ["predict", *map(str, words), *map(str, where)]
        done = CliRunner().invoke(app, line, catch_exceptions=False)
        return Outcome(done.exit_code, done.stdout, done.stderr)

    return ask


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file: text, or rows of `a` and `b`."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
