"""`mlserve models`: list the exported models and their versions, show one, verify their files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli import model_changes, signing
from mlserve.cli.arguments import StoreOption
from mlserve.cli.model_arguments import BackendFilter, ModelArgument, ModelFilter, ModelsArgument
from mlserve.cli.output import (
    OutputFormat,
    OutputOption,
    StatusLine,
    all_told,
    duration,
    note,
    print_json,
    print_table,
    say,
)
from mlserve.cli.usage import Command, CommandGroup
from mlserve.errors import ExitCode, MlserveError, NotFound

if TYPE_CHECKING:
    from mlserve.inventory import Checked, ModelFolder, StoredVersion

_HEADER = ("backend", "model", "version", "precision", "size", "age", "served by", "source")

models = typer.Typer(cls=CommandGroup, invoke_without_command=True)


@models.callback()
def list_by_default(
    ctx: typer.Context,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """List the exported models, show and verify them, remove and copy them, or roll back.

    For example:

    mlserve models

    mlserve models --backend onnxruntime --output json

    mlserve models use 1
    """
    if ctx.invoked_subcommand is None:
        list_models(backend, model, store, output)


@models.command("list", cls=Command)
def list_models(
    backend: BackendFilter = None,
    model: ModelFilter = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """List the versions of the exported models: size, age, source, and which servers serve them.

    A version that cannot be used is listed with the reason. What a server serves is taken from its
    record; `mlserve status` asks it.

    For example:

    mlserve models list --model inception_v3
    """
    from mlserve.inventory import model_folders
    from mlserve.store import Store

    root = Store(store)
    folders = model_folders(root, backend=backend, model=model)
    listed = [pair for folder in folders for pair in _with_servers(folder)]
    if output is OutputFormat.JSON:
        print_json([_as_json(version, names) for version, names in listed])
        return
    if not listed:
        note(f"no model has been exported into {root.root}; export one: mlserve export")
        return
    rows = [_row(version, names) for version, names in listed]
    print_table(_HEADER, rows, [[version.problem] for version, _ in listed])
    for problem in filter(None, (folder.pin_problem() for folder in folders)):
        note(f"warning: {problem}")


@models.command("show", cls=Command)
def show(
    reference: ModelArgument = None,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show a version: its inputs and outputs, what made it, its files and its digest.

    The digest is that of all files but the manifest: two versions with the same one answer alike.

    For example:

    mlserve models show onnxruntime/inception_v3@2
    """
    from mlserve.inventory import Reference
    from mlserve.store import Store

    asked = Reference.parse(reference) if reference else Reference()
    folder = asked.find(Store(store), backend=backend, model=model)
    shown = folder.usual() if asked.version is None else folder.version(asked.version)
    servers = {v.artifact.version: names for v, names in _with_servers(folder)}
    names = servers.get(shown.artifact.version, [])
    if output is OutputFormat.JSON:
        print_json(_details(shown, names))
        return
    for line in _lines(shown, names):
        say(line)


@models.command("verify", cls=Command)
def verify(
    references: ModelsArgument = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM file with the public key, or the authority (CA), that must have signed them.",
        ),
    ] = None,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Read every file of the versions, and compare it with the digest from the export.

    A server does the same before it loads a version. The digests are in the manifest, so that only
    a signature (--key) shows that somebody has changed both. Versions that an older mlserve
    exported have no digests; they are listed as not checked, unless --key checks their signature.

    Exit codes: 0 nothing is damaged, 8 something is, or is not signed by the key.

    For example:

    mlserve models verify

    mlserve models verify onnxruntime/inception_v3@2

    mlserve models verify inception_v3 --key public.pem
    """
    from mlserve.inventory import Check, check, check_signature
    from mlserve.signing import require_key

    if key is not None:
        require_key(key, "--key")
    line = StatusLine()
    done: list[Checked] = []
    chosen = _chosen(references, backend, model, store)
    if not chosen:
        raise NotFound(
            "there is no version to check",
            hint="`mlserve models` lists them; --store names a store",
        )
    with all_told(done, output, lambda: print_json([_checked_json(checked) for checked in done])):
        for version in chosen:
            line.show(f"reading {version}")
            checked = check(version)
            if key is not None:
                checked = check_signature(checked, key)
            line.clear()
            done.append(checked)
            if output is OutputFormat.TEXT:
                _print_checked(checked)
    if any(checked.outcome in (Check.DAMAGED, Check.NOT_SIGNED) for checked in done):
        raise typer.Exit(int(ExitCode.DIFFERENT))


for _command in (
    model_changes.use,
    model_changes.rm,
    model_changes.copy,
    model_changes.prune,
    signing.sign,
):
    models.command(_command.__name__, cls=Command)(_command)


def _chosen(
    references: list[str] | None, backend: str | None, model: str | None, store: Path | None
) -> list[StoredVersion]:
    from mlserve.inventory import Reference, model_folders
    from mlserve.store import Store

    root = Store(store)
    if not references:
        folders = model_folders(root, backend=backend, model=model)
        return [version for folder in folders for version in folder.versions()]
    chosen: list[StoredVersion] = []
    for word in references:
        asked = Reference.parse(word)
        folder = asked.find(root, backend=backend, model=model)
        chosen += folder.versions() if asked.version is None else [folder.version(asked.version)]
    return chosen


def _with_servers(folder: ModelFolder) -> Iterator[tuple[StoredVersion, list[str]]]:
    """Yield the versions with the names of the servers that serve them, by their records."""
    from mlserve.launch.served import uses_of

    versions = folder.versions()
    served = [(use.name, use.recorded(versions)) for use in uses_of(folder.base_path)]
    for version in versions:
        number = version.artifact.version
        yield version, list(dict.fromkeys(name for name, numbers in served if number in numbers))


def _row(version: StoredVersion, names: list[str]) -> list[str]:
    from rich.filesize import decimal

    age = (datetime.now(UTC) - version.created).total_seconds()
    number = f"{version.artifact.version}{' (pinned)' if version.is_pinned else ''}"
    return [
        version.backend,
        version.artifact.model,
        number,
        _precision(version) or "-",
        decimal(version.size),
        duration(max(0.0, age)),
        ", ".join(names) or "-",
        version.source,
    ]


def _precision(version: StoredVersion) -> str | None:
    """Return what it computes in; None if its manifest cannot be read."""
    manifest = version.artifact.manifest
    return None if manifest is None else manifest.computes_in


def _as_json(version: StoredVersion, names: list[str]) -> dict[str, Any]:
    from mlserve.signing import is_signed

    manifest = version.artifact.manifest
    return {
        "backend": version.backend,
        "model": version.artifact.model,
        "version": version.artifact.version,
        "path": str(version.artifact.path),
        "state": version.state.value,
        "problem": version.problem or None,
        "size": version.size,
        "created": version.created.isoformat(),
        "source": version.source,
        "kind": None if manifest is None else manifest.kind.value,
        "precision": _precision(version),
        "has_random_weights": manifest is not None and manifest.has_random_weights,
        "is_pinned": version.is_pinned,
        "has_signature": is_signed(version.artifact.path),
        "served_by": names,
    }


def _details(version: StoredVersion, names: list[str]) -> dict[str, Any]:
    artifact = version.artifact
    manifest = None if artifact.manifest is None else artifact.manifest.to_json()
    labels = _label_count(version)
    return _as_json(version, names) | {
        "digest": _digest(version),
        "labels": labels if isinstance(labels, int) else None,
        "manifest": manifest,
    }


def _lines(version: StoredVersion, names: list[str]) -> Iterator[str]:
    """Yield what there is to know of a version, in the form in which `export` reports it."""
    from rich.filesize import decimal

    from mlserve.cli.contract import contract_lines

    artifact, manifest = version.artifact, version.artifact.manifest
    lower = (
        "" if manifest is None or manifest.precision.is_reference else f", in {manifest.precision}"
    )
    yield f"model    {artifact.model}, version {artifact.version}, for {version.backend}{lower}"
    yield f"path     {artifact.path}"
    if version.problem:
        yield f"PROBLEM  {version.problem}"
    yield f"source   {version.source}"
    made_by = "" if manifest is None else f", by mlserve {manifest.mlserve}"
    yield f"created  {version.created.isoformat()}{made_by}"
    if manifest is not None:
        yield from contract_lines(manifest)
        labels = _label_count(version)
        if labels is not None:
            yield f"labels   {labels}"
        made = ", ".join(f"{name} {number}" for name, number in manifest.libraries.items())
        if made:
            yield f"made by  {made}"
        if manifest.has_random_weights:
            yield "WARNING  the weights are random: the answers of this model mean nothing"
    served = [*names, *(["pinned"] if version.is_pinned else [])]
    yield f"served   {', '.join(served) or 'by no server'}"
    for name, size in _files(version):
        yield f"file     {name}  {decimal(size)}"
    yield f"digest   {_digest(version) or 'unknown: a file cannot be read'}"


def _label_count(version: StoredVersion) -> int | str | None:
    """Return how many labels there are, or why they cannot be read; None for a model of tensors."""
    artifact = version.artifact
    if artifact.manifest is None or artifact.manifest.pipeline is None:
        return None
    try:
        return len(artifact.labels())
    except MlserveError as error:
        return error.message


def _files(version: StoredVersion) -> list[tuple[str, int]]:
    from mlserve.digests import file_names

    folder = version.artifact.path
    return [(name, (folder / name).lstat().st_size) for name in file_names(folder)]


def _digest(version: StoredVersion) -> str | None:
    """Return one digest of all files: that of the export, else of what is there now."""
    from mlserve.artifact import BESIDE_THE_MODEL
    from mlserve.digests import digests_of, joined

    manifest = version.artifact.manifest
    try:
        listed = None if manifest is None else manifest.files
        found = listed or digests_of(version.artifact.path, without=BESIDE_THE_MODEL)
    except (OSError, ValueError):
        return None
    return joined(found)


def _print_checked(checked: Checked) -> None:
    why = f": {checked.why}" if checked.why else ""
    signed = ", signed" if checked.is_signed else ""
    say(f"{checked.version}  {checked.outcome.value}{signed}{why}")
    for name, fault in checked.faults.items():
        say(f"    {name} {fault}")


def _checked_json(checked: Checked) -> dict[str, Any]:
    artifact = checked.version.artifact
    return {
        "backend": checked.version.backend,
        "model": artifact.model,
        "version": artifact.version,
        "path": str(artifact.path),
        "outcome": checked.outcome.value,
        "why": checked.why or None,
        "is_signed": checked.is_signed,
        "faults": dict(checked.faults),
    }
