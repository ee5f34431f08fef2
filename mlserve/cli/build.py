"""`mlserve build`: the container image of an exported model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import ExportedBackendOption, ExportedModelOption, StoreOption
from mlserve.cli.output import OutputFormat, OutputOption, is_interactive, note, print_json
from mlserve.settings import GRPC_PORT

if TYPE_CHECKING:
    from mlserve.launch.docker.images import BuildRequest
    from mlserve.sources import Progress


def build(
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="The version. Default: the latest.",
            autocompletion=completion.versions,
        ),
    ] = None,
    store: StoreOption = None,
    tag: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:TAG",
            help="The image's name. Default: `mlserve-<backend>-<model>:<version>`.",
        ),
    ] = None,
    file_only: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Build nothing: write the Dockerfile and everything it needs into a new folder.",
        ),
    ] = None,
    server: Annotated[
        Literal["auto", "native", "embedded"],
        typer.Option(
            help="The server in the image: the runtime's own (native), mlserve's (embedded), or "
            "the runtime's own if it has one, else mlserve's (auto)."
        ),
    ] = "auto",
    base_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="The image to build on. Default: tensorflow/serving for a native server, else "
            "`python:<version>-slim`, with the version of Python here.",
        ),
    ] = None,
    build_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION",
            help="An option to pass to `docker build`, such as --build-option=--network=host. "
            "Repeat it to pass several.",
        ),
    ] = None,
    wheel_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Install mlserve from the wheels in this folder. Default: from wheels made of "
            "what is installed here.",
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Build the container image of an exported model.

    Prints the image's tag and id.

    For example:

    mlserve build --backend onnxruntime --model efficientnet_lite0

    mlserve build --file-only image/ && docker build --tag mine image/
    """
    from mlserve import plugins
    from mlserve.artifact import Artifact
    from mlserve.launch.docker.images import BuildRequest
    from mlserve.model_choice import choose
    from mlserve.store import VersionPolicy

    versions = VersionPolicy(() if version is None else (version,))
    chosen = choose(backend, model, None, versions, store)
    request = BuildRequest(
        plugins.backend(chosen.backend),
        Artifact.open(chosen.base_path, chosen.model, chosen.expected[-1]),
        tag=tag,
        kind=server,
        base_image=base_image,
        options=tuple(build_option or ()),
        wheel_dir=wheel_dir,
    )
    if file_only is not None:
        _write_files(request, file_only, output)
    else:
        _build_image(request, output)


def _write_files(request: BuildRequest, folder: Path, output: OutputFormat) -> None:
    from mlserve.launch.docker.images import write_context

    write_context(request, folder)
    if output is OutputFormat.JSON:
        print_json({"folder": str(folder.absolute()), "tag": request.image_tag})
        return
    typer.echo(str(folder.absolute()))
    note(f"next     docker build --tag {request.image_tag} {folder}")


def _build_image(request: BuildRequest, output: OutputFormat) -> None:
    from mlserve.launch.docker.images import BuildLogged
    from mlserve.launch.docker.images import build as build_image

    try:
        with _progress() as progress:
            built = build_image(request, progress)
    except BuildLogged as error:
        note(error.log)
        raise
    artifact = request.artifact
    if output is OutputFormat.JSON:
        print_json(
            {
                "tag": built.tag,
                "id": built.id,
                "base_image": built.base_image,
                "backend": request.backend.name,
                "model": artifact.model,
                "version": artifact.version,
            }
        )
        return
    typer.echo(f"{built.tag}  {built.id}")
    if artifact.manifest is not None and artifact.manifest.has_random_weights:
        note("WARNING  the weights are random: the answers of this model mean nothing")
    publish = f"127.0.0.1:{GRPC_PORT}:{GRPC_PORT}"
    init = "" if request.spec is None else " --init"
    note(f"next     docker run --rm{init} --publish {publish} {built.tag}")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Yield a Progress that shows one line on stderr if that is a terminal."""
    from mlserve.export import no_progress

    if not is_interactive():
        yield no_progress
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("building") as status:

        def show(what: str, done: int, total: int | None) -> None:
            step = f"step {done + 1} of {total}: " if total else ""
            status.update(escape(f"{step}{what}"[: status.console.width - 4]))

        yield show
