"""What `mlserve export` says: how far it is, and at the end what it has written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mlserve.cli.output import OutputFormat, is_interactive, note, print_json
from mlserve.errors import UsageError
from mlserve.precision import GOLDEN_ORIGIN

if TYPE_CHECKING:
    from mlserve.artifact import Artifact, Manifest
    from mlserve.pipeline import ImagePipeline
    from mlserve.sources import Facts, Progress

_LISTED = 5
"""Most labels, and most classes of one label, that are named."""


def report(
    artifact: Artifact, store: Path | None, output: OutputFormat, *, are_labels_given: bool
) -> None:
    """Print the new version's folder on stdout and its details on stderr, or all of it as JSON."""
    from mlserve.cli.contract import contract_lines

    manifest = artifact.manifest
    if manifest is None:  # the export has just written it
        raise UsageError(f"{artifact.path} has lost its manifest", hint="export the model again")
    labels = manifest.pipeline.full_labels(artifact.labels()) if manifest.pipeline else ()
    if output is OutputFormat.JSON:
        _tell_of_shared_labels(labels, are_given=are_labels_given)
        print_json({"path": str(artifact.path), "version": artifact.version} | manifest.to_json())
        return
    typer.echo(str(artifact.path))
    note(
        f"model    {artifact.model}, version {artifact.version}, for {manifest.backend}"
        + ("" if manifest.precision.is_reference else f", in {manifest.precision}")
    )
    note(f"source   {manifest.source}")
    _tell_of_fetched(manifest.fetched)
    for line in contract_lines(manifest):
        note(line)
    _tell_of_few_inputs(manifest)
    if manifest.pipeline:
        last = len(labels) - 1
        note(
            f"labels   class 0 is {labels[0]!r}, class {last} is {labels[last]!r}"
            f"{_origin(manifest.pipeline)}{_named_by(manifest.facts)}"
        )
    _tell_of_shared_labels(labels, are_given=are_labels_given)
    if manifest.has_random_weights:
        note("WARNING  the weights are random: the answers of this model mean nothing")
    _tell_of_pin(artifact)
    note(f"next     {_next_step(artifact, manifest.backend, store)}")


def _tell_of_few_inputs(manifest: Manifest) -> None:
    """Say that an agreement on a few golden inputs proves little."""
    if manifest.agreement.get("origin") == GOLDEN_ORIGIN:
        note("         that is few: --held-out DIR measures it on images or rows like yours")


def _tell_of_fetched(fetched: Mapping[str, Any]) -> None:
    """Report each address, what was there, and whether the server was asked for it now."""
    for option, origin in fetched.items():
        revision = f"{origin['revision']}, " if origin["revision"] else ""
        note(
            f"fetched  --{option} {origin['url']} on {origin['fetched']}: {revision}"
            f"sha256:{origin['sha256']}"
        )
        if origin["unchecked"]:
            note(f"         taken from the cache unchecked: {origin['unchecked']}")


def _tell_of_pin(artifact: Artifact) -> None:
    """Say that servers go on with another version, if one is pinned."""
    from mlserve.pin import pin_or_none, unpin_hint

    base_path = artifact.path.parent
    pin = pin_or_none(base_path)
    if pin not in (None, artifact.version):
        note(f"pinned   servers stay with version {pin}; {unpin_hint(base_path)}")


def _tell_of_shared_labels(labels: Sequence[str], *, are_given: bool) -> None:
    """Report labels that stand for several classes; warn if the user gave the labels."""
    from mlserve.labels import repeated

    shared = repeated(labels)
    for label, classes in list(shared.items())[:_LISTED]:
        what = f"{label!r} is the label of the classes {', '.join(map(str, classes[:_LISTED]))}"
        note(f"{'WARNING ' if are_given else '        '} {what}: their answers look the same")
    if len(shared) > _LISTED:
        note(f"         and {len(shared) - _LISTED} more labels of several classes")


def _origin(pipeline: ImagePipeline) -> str:
    """Explain where a background class without a label comes from; empty if there is none."""
    if not pipeline.class_offset:
        return ""
    count = pipeline.scored_classes - 1
    how = "--background" if pipeline.is_background_given else f"{count + 1} outputs"
    return f" (a background class and {count} labels: {how})"


def _named_by(facts: Facts) -> str:
    """Explain where labels come from that are not those of --labels; empty for these."""
    return f"; {facts['labels']}" if "labels" in facts else ""


def _next_step(artifact: Artifact, backend: str, store: Path | None) -> str:
    place = "" if store is None else f" --store {shlex.quote(str(store))}"
    return f"mlserve up{place} --backend {backend} --model {artifact.model}"


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Yield a Progress that draws on stderr if that is a terminal, else stays silent."""
    from mlserve.export import no_progress

    if not is_interactive():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            for other, task in tasks.items():
                bars.update(task, visible=other == what)
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
