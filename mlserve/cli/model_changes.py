"""`mlserve models use`, `rm`, `copy` and `prune`: change what the store holds and servers serve."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli.arguments import StoreOption
from mlserve.cli.model_arguments import (
    FORMS,
    BackendFilter,
    ModelFilter,
    ModelsArgument,
    PathOption,
    VersionsArgument,
    YesOption,
    complete_model,
    complete_target,
)
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    StatusLine,
    all_told,
    note,
    print_json,
    say,
)
from mlserve.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from mlserve.inventory import ModelFolder, StoredVersion
    from mlserve.launch.served import Use
    from mlserve.launch.switch import Switched

_LATEST = "latest"


def use(
    target: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="The version's number, or `latest`; with several exported models, "
            "[BACKEND/]MODEL@VERSION.",
            autocompletion=complete_target,
            show_default=False,
        ),
    ],
    backend: BackendFilter = None,
    model: ModelFilter = None,
    path: PathOption = None,
    store: StoreOption = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="The time within which the running servers must serve it.",
        ),
    ] = 60.0,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Switch the servers of a model to one version, without losing a request.

    Pins the version: servers that were started without --version load it, answer with it, and then
    let the other one go. The pin stays, also for servers that start later, until `use latest`
    removes it. The files are checked first, and a version that a server cannot load changes
    nothing. Returns when the servers on this machine serve the version.

    For example:

    mlserve models use 1

    mlserve models use onnxruntime/inception_v3@latest
    """
    from mlserve.deadline import check_seconds
    from mlserve.launch.switch import switch

    check_seconds("--timeout", timeout)
    folder, version = _target(target, backend, model, path, store)
    line = StatusLine()
    try:
        switched = switch(folder, version, timeout, line.show)
    except KeyboardInterrupt:
        _tell_interrupted(folder, line)
        raise
    finally:
        line.clear()
    _print_switched(folder, switched, output)
    if switched.others:
        use, advice = switched.others[0]
        raise Unavailable(f"{use.label} does not serve version {switched.version}", hint=advice)


def rm(
    references: VersionsArgument,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    yes: YesOption = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Remove also what is pinned, or served by a running server."),
    ] = False,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Remove versions. Asks first, on a terminal.

    A version that a running server serves, or that is pinned, is not removed without --force.

    For example:

    mlserve models rm onnxruntime/inception_v3@2

    mlserve models rm inception_v3@1 inception_v3@2 --yes
    """
    named = [_one(word, backend, model, store) for word in references]
    chosen = list({str(version.artifact.path): (f, version) for f, version in named}.values())
    if not force:
        for folder in {folder.base_path: folder for folder, _ in chosen}.values():
            _require_unused(folder, [v for f, v in chosen if f == folder])
    _remove(chosen, output, yes=yes)


def copy(
    reference: Annotated[
        str,
        typer.Argument(
            metavar=FORMS,
            help="The version to copy. Without a version, the pinned one or the latest.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ],
    to_store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The store to copy to. Default: the same one."),
    ] = None,
    to_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name of the copy. Default: the same one."),
    ] = None,
    to_version: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The number of the copy. Default: the same one."),
    ] = None,
    links: Annotated[
        bool,
        typer.Option(
            "--links/--no-links",
            help="Make hard links, which take no room, where the file system allows.",
        ),
    ] = True,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Copy a version to another store, name or number.

    The copy appears whole, after its files were checked, and replaces nothing. It keeps its
    signature, unless it has another name: the name is in what was signed.

    For example:

    mlserve models copy inception_v3@2 --to-store /mnt/models

    mlserve models copy inception_v3@2 --to-model inception_canary --to-version 1
    """
    from mlserve.inventory import Reference
    from mlserve.signing import is_signed
    from mlserve.store import Store
    from mlserve.store_changes import copy as copy_version

    if to_store is None and to_model is None and to_version is None:
        raise UsageError(
            "the copy would take the place of the original",
            hint="say where it goes: --to-store DIR, --to-model NAME or --to-version N",
        )
    root = Store(store)
    asked = Reference.parse(reference)
    folder = asked.find(root, backend=backend, model=model)
    source = folder.usual() if asked.version is None else folder.version(asked.version)
    into = root if to_store is None else Store(to_store)
    made = copy_version(source, into, model=to_model, version=to_version, links=links)
    if is_signed(source.artifact.path) and not is_signed(made.path):
        note("the copy has another name, so it is not signed; to sign it: mlserve models sign")
    if output is OutputFormat.JSON:
        print_json(
            {
                "path": str(made.path),
                "backend": source.backend,
                "model": made.model,
                "version": made.version,
            }
        )
        return
    say(str(made.path))


def prune(
    references: ModelsArgument = None,
    keep: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many versions of each model to keep.")
    ] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    yes: YesOption = False,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Remove old versions, and keep the highest of each model. Asks first, on a terminal.

    Versions that are pinned or served by a running server stay, and so do those that are still
    being copied or that a newer mlserve wrote. Damaged ones do not count among those to keep.

    For example:

    mlserve models prune --keep 2 --dry-run

    mlserve models prune inception_v3 --keep 5 --yes
    """
    from mlserve.launch.served import users_by_version
    from mlserve.store_changes import surplus

    chosen: list[tuple[ModelFolder, StoredVersion]] = []
    for folder in _folders(references, backend, model, store):
        in_use = list(users_by_version(folder))
        chosen += [(folder, version) for version in surplus(folder.versions(), keep, in_use)]
    if not chosen:
        note("there is nothing to remove")
    if dry_run or not chosen:
        _print_removed([version for _, version in chosen], output, verb="would be removed")
        return
    _remove(chosen, output, yes=yes)


def _target(
    target: str, backend: str | None, model: str | None, path: Path | None, store: Path | None
) -> tuple[ModelFolder, int | None]:
    """Return the model and the version to use; None is the latest."""
    from mlserve.inventory import ModelFolder, Reference
    from mlserve.paths import expanded
    from mlserve.store import Store

    name, at, version = target.rpartition("@")
    if not at and version != _LATEST and not version.isdigit():
        number = version.removeprefix("v")  # as --split has it: v2=5%
        raise UsageError(
            f"{target!r} does not say which version to use",
            hint=f"give its number: mlserve models use {number}"
            if number.isdigit()
            else f"give its number, or latest, after the name: mlserve models use {target}@1",
        )
    is_latest = version == _LATEST
    asked = Reference(name or None) if is_latest else Reference.parse(f"{name}@{version}")
    if path is None:
        return asked.find(Store(store), backend=backend, model=model), asked.version
    if name or store is not None:
        raise UsageError(
            "--path names a model's folder, and no other is needed",
            hint=f"give the version alone: mlserve models use {version} --path {path}",
        )
    base = expanded(path).absolute()
    return ModelFolder(backend or base.parent.name, model or base.name, base), asked.version


def _tell_interrupted(folder: ModelFolder, line: StatusLine) -> None:
    """Say what stays although the command was interrupted."""
    from mlserve.pin import pin_or_none

    pin, of = pin_or_none(folder.base_path), f"the pin of {folder}"
    line.clear()
    stays = f"{of} stays at version {pin}" if pin is not None else f"{folder} has no pin"
    note(f"interrupted: {stays}, and running servers go on to it; see mlserve status")


def _print_switched(folder: ModelFolder, switched: Switched, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(
            {
                "backend": folder.backend,
                "model": folder.model,
                "version": switched.version,
                "pin": switched.pin,
                "servers": [_use_json(use) for use in switched.servers],
                "others": [_use_json(use) | {"advice": advice} for use, advice in switched.others],
            }
        )
        return
    if switched.pin is None:
        say(f"{folder} has no pin: its latest version is {switched.version}")
    else:
        say(f"{folder} is pinned to version {switched.version}")
    for use in switched.servers:
        say(f"{use.label} serves version {switched.version}")
    if not switched.servers and not switched.others:
        note("no server of this model is running; the next one will serve this version: mlserve up")


def _use_json(use: Use) -> dict[str, str]:
    return {"name": use.name, "model": use.model.model}


def _one(
    word: str, backend: str | None, model: str | None, store: Path | None
) -> tuple[ModelFolder, StoredVersion]:
    from mlserve.inventory import Reference
    from mlserve.store import Store

    asked = Reference.parse(word)
    folder = asked.find(Store(store), backend=backend, model=model)
    if asked.version is None:
        listed = ", ".join(str(version) for version in folder.versions())
        raise UsageError(f"{word!r} does not name a version", hint=f"name what to remove: {listed}")
    return folder, folder.version(asked.version)


def _folders(
    references: list[str] | None, backend: str | None, model: str | None, store: Path | None
) -> list[ModelFolder]:
    from mlserve.inventory import Reference, model_folders
    from mlserve.store import Store

    root = Store(store)
    if not references:
        return model_folders(root, backend=backend, model=model)
    for word in references:
        if "@" in word:
            raise UsageError(
                f"{word!r} names a version, and prune takes whole models",
                hint=f"to remove one version: mlserve models rm {word}",
            )
    return [Reference(word).find(root, backend=backend, model=model) for word in references]


def _require_unused(folder: ModelFolder, versions: Sequence[StoredVersion]) -> None:
    """Raise UsageError for a version that is pinned or served."""
    from mlserve.launch.served import users_by_version

    users = users_by_version(folder)
    for version in versions:
        found = users.get(version.artifact.version)
        if found:
            raise UsageError(
                f"{version} is served by {', '.join(use.label for use in found)}",
                hint="switch to another version first (mlserve models use N), or stop the server "
                f"(mlserve down {found[0].name}); --force removes it all the same",
            )
        if version.is_pinned:
            raise UsageError(
                f"{version} is pinned: servers serve it",
                hint="pin another one first (mlserve models use N, or latest); --force removes it "
                "all the same",
            )


def _remove(
    chosen: Sequence[tuple[ModelFolder, StoredVersion]], output: OutputFormat, *, yes: bool
) -> None:
    from mlserve.pin import write_pin
    from mlserve.store_changes import remove

    if not yes and not _agrees([version for _, version in chosen]):
        note("nothing was removed")
        _print_removed([], output, verb="")
        return
    done: list[StoredVersion] = []
    with all_told(done, output, lambda: _print_removed(done, output, verb="")):
        for folder, version in chosen:
            if version.is_pinned:
                write_pin(folder.base_path, None)
            remove(folder, version.artifact.version)
            done.append(version)
            if output is OutputFormat.TEXT:
                _print_removed([version], output, verb="is removed")


def _agrees(versions: Sequence[StoredVersion]) -> bool:
    """Ask on the terminal. Raises UsageError if there is none."""
    from rich.filesize import decimal

    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "this command asks before it removes anything, and standard input is not a terminal",
            hint="add --yes to remove without a question",
        )
    for version in versions:
        note(f"{version}  {decimal(version.size)}")
    typer.echo(f"remove {len(versions)} version(s)? [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _print_removed(versions: Sequence[StoredVersion], output: OutputFormat, *, verb: str) -> None:
    if output is OutputFormat.TEXT:
        for version in versions:
            say(f"{version} {verb}")
        return
    print_json(
        [
            {
                "backend": version.backend,
                "model": version.artifact.model,
                "version": version.artifact.version,
                "size": version.size,
            }
            for version in versions
        ]
    )
