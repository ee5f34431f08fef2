"""`mlserve doctor`: find what would prevent exporting, serving and predicting on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli.defaults import document_of, problem_of
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    fix_line,
    note,
    print_json,
    print_wrapped,
    say,
)
from mlserve.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlserve.doctor.finding import Finding


def doctor(
    ctx: typer.Context,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also import the runtimes, each in a process of its own. Slow."
        ),
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Check this machine: versions, conflicts, launchers, ports, memory, disk, files, network.

    Each finding is ok, warn or fail, and comes with its fix. Exit codes: 0 the default path
    (export, up, predict) would work, 3 something that it needs is missing.

    For example:

    mlserve doctor --output json
    """
    from mlserve.doctor.finding import Status
    from mlserve.doctor.run import examine

    findings = examine(is_deep=deep, document=document_of(ctx), problem=problem_of(ctx))
    failed = [found for found in findings if found.status is Status.FAIL]
    if output is OutputFormat.JSON:
        print_json({"works": not failed, "findings": [found.to_json() for found in findings]})
    else:
        _print(findings)
        note(_verdict(len(failed)))
    if failed:
        raise typer.Exit(int(ExitCode.PLUGIN))


def _print(findings: Sequence[Finding]) -> None:
    width = max(len(found.name) for found in findings)
    area = ""
    for found in findings:
        if found.area != area:
            area = found.area
            say(area)
        begin = f"  {found.status.value:<4}  {found.name:<{width}}  "
        print_wrapped(found.text, " " * len(begin), first=begin)
        if found.fix:
            print_wrapped(fix_line(found.fix), " " * len(begin))


def _verdict(failed: int) -> str:
    if not failed:
        return "the default path (export, up, predict) works here"
    return f"the default path (export, up, predict) does not work here: {failed} to fix"
