"""The command line that a report gives, so that it can be made again."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from mlserve.cli.output import OutputFormat, OutputOption, ReportOption
from mlserve.cli.repeat import command_line


def _told(*words: str, **defaults: object) -> list[str]:
    """The words that a command tells, which was called with these, and has these defaults."""
    told: list[str] = []
    app = typer.Typer(context_settings={"default_map": defaults})

    @app.command()
    def asked(
        ctx: typer.Context,
        files: list[str],
        model: Annotated[list[str] | None, typer.Option()] = None,
        runs: int = 3,
        whole: bool = True,
        output: OutputOption = OutputFormat.TEXT,
        report: ReportOption = None,
    ) -> None:
        told.extend(shlex.split(command_line(ctx)))

    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return told


def test_a_command_is_told_with_what_was_given_and_nothing_else() -> None:
    assert _told("a b.jpg", "--report", "r.html") == [*("mlserve", "a b.jpg", "--report", "r.html")]
    words = ("x", "y", "--model", "m", "--model", "n", "--no-whole", "--output", "json")
    assert _told(*words) == ["mlserve", *words]


def test_what_the_configuration_gives_is_told_as_options() -> None:
    assert _told("x", runs=1, report=Path("r.html")) == [
        *("mlserve", "x", "--runs", "1", "--report", "r.html")
    ]
    assert _told("x", "--runs", "5", runs=1) == ["mlserve", "x", "--runs", "5"]


def test_files_with_any_name_are_given_again(tmp_path: Path) -> None:
    """As a shell reads them, to which the command is pasted."""
    names = ["-x.jpg", "a'b\"c $HOME `d`.jpg", "tab\there\nand there.jpg", "nicht-\udcff.jpg"]
    names += ["größe.jpg", "back\\slash \x07.jpg", "-"]
    told: list[str] = []
    app = typer.Typer()

    @app.command()
    def asked(ctx: typer.Context, files: list[str], model: str = "") -> None:
        assert files == names
        told.append(command_line(ctx))

    done = CliRunner().invoke(app, ["--model", "-m", "--", *names], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [line] = told
    assert line.isprintable()
    printed = subprocess.run(
        ["bash", "-c", f"set -- {line}; printf '%s\\0' \"$@\""], capture_output=True, check=True
    ).stdout
    words = [os.fsdecode(word) for word in printed.split(b"\0")[:-1]]
    assert words == ["mlserve", "--model", "-m", "--", *names]
