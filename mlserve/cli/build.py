"""`mlserve build`: the container image of an exported model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import ExportedBackendOption, ExportedModelOption, StoreOption
from mlserve.cli.export_choice import export_of
from mlserve.cli.output import OutputFormat, OutputOption, is_interactive, note, print_json
from mlserve.errors import UsageError
from mlserve.settings import GRPC_PORT

if TYPE_CHECKING:
    from mlserve.artifact import Artifact
    from mlserve.launch.docker.images import BuildRequest
    from mlserve.sources import Progress

_REGISTRY = "REGISTRY"
"""What stands for the user's own in a command that needs one."""


def build(
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="The version. Default: the pinned one or the latest.",
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
    artifact_only: Annotated[
        bool,
        typer.Option(
            "--artifact-only",
            help="Make an image of the model's files alone, without a server, for image volumes "
            "of Kubernetes and for KServe (`oci+native://`). Nothing is built or pulled; "
            "--file-only DIR writes it as an OCI image layout. With --base-image it is built on "
            "that image (KServe's `oci://` needs a shell in it: busybox).",
        ),
    ] = False,
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

    mlserve build --artifact-only --tag registry.example/efficientnet:3
    """
    from mlserve import plugins
    from mlserve.artifact import Artifact
    from mlserve.launch.docker.images import BuildRequest
    from mlserve.store import VersionPolicy

    versions = VersionPolicy(() if version is None else (version,))
    chosen = export_of(backend, model, None, versions, store)
    if artifact_only:
        _require_none({"--wheel-dir": wheel_dir, "--server": server != "auto"})
    if artifact_only and base_image is None:
        _require_none({"--build-option": build_option})
        artifact = Artifact.open(chosen.base_path, chosen.model, chosen.expected[-1])
        _make_artifact_image(artifact, chosen.backend, tag, file_only, output)
        return
    request = BuildRequest(
        plugins.backend(chosen.backend),
        Artifact.open(chosen.base_path, chosen.model, chosen.expected[-1]),
        tag=tag,
        kind=server,
        base_image=base_image,
        options=tuple(build_option or ()),
        wheel_dir=wheel_dir,
        artifact_only=artifact_only,
    )
    if file_only is not None:
        _write_files(request, file_only, output)
    else:
        _build_image(request, output)


def _require_none(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{option} is for an image with a server, and --artifact-only makes one without",
                hint="leave one of them out",
            )


def _make_artifact_image(
    artifact: Artifact, backend: str, tag: str | None, folder: Path | None, output: OutputFormat
) -> None:
    """Write the image into the folder, or give it to the engine if there is none."""
    from tempfile import TemporaryDirectory

    from mlserve.launch.docker.artifact_image import load, write_artifact_image
    from mlserve.launch.docker.images import artifact_image_tag, artifact_labels

    tag = tag or artifact_image_tag(backend, artifact.model, artifact.version)
    labels = artifact_labels(artifact, backend)
    with TemporaryDirectory(prefix="mlserve-build-") as aside:
        image = write_artifact_image(artifact, tag, labels, folder or Path(aside) / "image")
        identity = "" if folder is not None else load(image)
    about = {"tag": tag, "digest": image.digest, "ids": dict(image.ids)}
    if folder is not None:
        about["folder"] = str(folder.absolute())
    if output is OutputFormat.JSON:
        named = {"backend": backend, "model": artifact.model, "version": artifact.version}
        print_json(about | named)
        return
    typer.echo(f"{tag}  {identity or image.digest}")
    note(f"next     {_docker_push(tag) if folder is None else _crane_push(folder, tag)}")


def _docker_push(tag: str) -> str:
    """The command that pushes the image, under a name with a registry."""
    if "/" in tag:
        return f"docker push {tag}"
    return f"docker tag {tag} {_REGISTRY}/{tag} && docker push {_REGISTRY}/{tag}"


def _crane_push(folder: Path, tag: str) -> str:
    return f"crane push {folder} {tag if '/' in tag else f'{_REGISTRY}/{tag}'}"


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
    if request.artifact_only:
        note(f"next     {_docker_push(built.tag)}")
        return
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
