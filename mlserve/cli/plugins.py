"""`mlserve plugins`: list what is installed, missing or broken, with the fix; write a new one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    fix_line,
    note,
    print_json,
    print_table,
)
from mlserve.cli.usage import Command, CommandGroup
from mlserve.distributions import install_command

if TYPE_CHECKING:
    from mlserve.backend import Backend
    from mlserve.errors import PluginError
    from mlserve.launcher import Launcher
    from mlserve.plugins import PluginReport
    from mlserve.sources import ModelSource


@dataclass(frozen=True, slots=True)
class PluginPart:
    """A backend, model source or launcher, or a plugin that has none because it is not usable.

    `status` is `installed`, `missing` (it or a module it needs) or `broken`; `fix` repairs the last
    two.
    """

    name: str
    kind: str
    status: str
    distribution: str
    about: str
    models: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    error: str | None = None
    fix: str | None = None


plugins = typer.Typer(cls=CommandGroup, invoke_without_command=True)


@plugins.callback()
def list_plugins(ctx: typer.Context, output: OutputOption = OutputFormat.TEXT) -> None:
    """List backends, model sources and launchers: installed, missing or broken, with the fix.

    For example:

    mlserve plugins

    mlserve plugins --output json

    mlserve plugins new my_runtime
    """
    if ctx.invoked_subcommand is None:
        _print_list(output)


@plugins.command("new", cls=Command)
def new(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The backend's name, which is the value of --backend."),
    ],
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write. Default: mlserve-NAME, here."),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Write the files of a new backend: it can be installed, and passes its tests, at once.

    docs/backend-tutorial.md goes on from there.

    For example:

    mlserve plugins new my_runtime --into my-runtime
    """
    from mlserve.new_plugin.write import write_plugin

    folder = into or Path(f"mlserve-{name.replace('_', '-')}")
    written = write_plugin(name, folder)
    if output is OutputFormat.JSON:
        print_json({"path": str(folder), "files": [str(path) for path in written]})
        return
    typer.echo(str(folder))
    for path in written:
        note(f"wrote    {path}")
    place = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    note(f"next     pip install -e {place}'[serve]' && pytest {place}")


def _print_list(output: OutputFormat) -> None:
    from mlserve.plugins import KNOWN, survey

    reports = survey()
    parts = [part for report in reports for part in _parts(report)]
    there = {report.name for report in reports}
    parts += [_not_installed(name, KNOWN[name]) for name in sorted(set(KNOWN) - there)]
    if output is OutputFormat.JSON:
        print_json([asdict(part) for part in parts])
        return
    header = ("name", "status", "kind", "distribution")
    rows = [(part.name, part.status, part.kind, part.distribution) for part in parts]
    print_table(header, rows, [list(_below(part)) for part in parts])


def _parts(report: PluginReport) -> Iterator[PluginPart]:
    if report.error is not None:
        yield _unusable(report, report.error)
    if report.backend is not None:
        yield _part("backend", report, report.backend)
    if report.launcher is not None:
        yield _part("launcher", report, report.launcher)
    for source in report.sources:
        yield _part("model source", report, source)


def _part(
    kind: str, report: PluginReport, given: type[Backend] | type[Launcher] | ModelSource
) -> PluginPart:
    from mlserve.backend import Backend
    from mlserve.plugins import absent_modules, absent_to_serve

    if isinstance(given, type) and issubclass(given, Backend):
        missing = tuple(absent_to_serve(given))
    else:
        missing = tuple(absent_modules(given.requires))
    return PluginPart(
        name=given.name,
        kind=kind,
        status="missing" if missing else "installed",
        distribution=report.distribution,
        about=given.summary,
        models=tuple(getattr(given, "models", ())),
        missing=missing,
        fix=given.install_hint if missing else None,
    )


def _unusable(report: PluginReport, error: PluginError) -> PluginPart:
    from mlserve.plugins import DependencyMissing

    missing = error.modules if isinstance(error, DependencyMissing) else ()
    return PluginPart(
        name=report.name,
        kind="plugin",
        status="missing" if missing else "broken",
        distribution=report.distribution,
        about="",
        missing=missing,
        error=error.message,
        fix=error.hint,
    )


def _not_installed(name: str, wanted: str) -> PluginPart:
    distribution = wanted.partition("[")[0]
    return PluginPart(name, "plugin", "missing", distribution, "", fix=install_command(wanted))


def _below(part: PluginPart) -> Iterator[str]:
    yield part.about
    if part.models:
        yield f"models: {', '.join(part.models)}"
    if part.error:
        yield part.error
    elif part.missing:
        yield f"not installed: {', '.join(part.missing)}"
    if part.fix:
        yield fix_line(part.fix)
