"""`mlserve up`: start a server for an exported model, in the background or the foreground."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli.arguments import (
    ExportedBackendOption,
    ExportedModelOption,
    StoreOption,
    with_options,
)
from mlserve.cli.output import OutputFormat, OutputOption, is_interactive, note, print_json, say
from mlserve.errors import UsageError
from mlserve.launch.serving import Serving
from mlserve.load_options import LoadOptions
from mlserve.settings import (
    DEFAULT_HOST,
    GRPC_PORT,
    READY_WITHIN,
    REST_PORT,
    Launcher,
    ServerSettings,
)

if TYPE_CHECKING:
    from mlserve.launch.records import ServerRecord
    from mlserve.launch.up import UpRequest


@with_options(LoadOptions, ServerSettings)
def up(
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|all",
            help="The version to serve, or `all`. Repeat it to serve several. Default: the latest, "
            "also when a newer one is exported later.",
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Serve this folder of version folders (DIR/1/...) instead of an exported model. "
            "The backend is found from its files.",
        ),
    ] = None,
    store: StoreOption = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help=f"The gRPC port; 0 takes any free one. Default: {GRPC_PORT} or the next free one.",
        ),
    ] = None,
    rest_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help=f"The REST port; 0 takes any free one. Default: {REST_PORT} or the next free one.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on.")
    ] = DEFAULT_HOST,
    launcher: Annotated[
        Launcher,
        typer.Option(
            help="What to start: the runtime's own server (native), mlserve's (embedded), a "
            "container (docker), or the native one if it is on PATH, else mlserve's (auto)."
        ),
    ] = Launcher.AUTO,
    image: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="In a container",
            metavar="IMAGE",
            help="The image to run. Default: the one that `mlserve build` makes, or "
            "tensorflow/serving.",
        ),
    ] = None,
    docker_option: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel="In a container",
            metavar="OPTION",
            help="An option to pass to `docker run`, such as --docker-option=--memory=2g. Repeat "
            "it to pass several.",
        ),
    ] = None,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay attached until the server ends, as in a container."
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            min=0.001, metavar="SECONDS", help="Seconds within which the server must be ready."
        ),
    ] = READY_WITHIN,
    output: OutputOption = OutputFormat.TEXT,
    **options: Any,
) -> None:
    """Start a server and return when it answers a real request.

    For example:

    mlserve up && mlserve predict horse.jpg --timeout 5 && mlserve down

    mlserve up --backend onnxruntime --threads 2

    mlserve up --launcher docker --docker-option=--memory=2g
    """
    from mlserve.credentials import check_files
    from mlserve.launch.model_choice import choose
    from mlserve.launch.ports import PortRequest
    from mlserve.launch.up import request_up
    from mlserve.store import VersionPolicy

    if launcher is not Launcher.DOCKER and (image or docker_option):
        raise UsageError(
            "--image and --docker-option are for containers", hint="add --launcher docker"
        )
    load_options = LoadOptions.taken_from(options)
    settings = ServerSettings.taken_from(options).absolute()
    check_files(settings)
    serving = replace(
        choose(backend, model, path, VersionPolicy.parse(version or []), store),
        options=load_options,
        settings=settings,
        image=image,
        docker_options=tuple(docker_option or ()),
    )
    request = request_up(serving, PortRequest(host, grpc_port, rest_port), launcher, wait)
    if foreground:
        _run_in_foreground(request, output)
    else:
        _start_in_background(request, output)


def _start_in_background(request: UpRequest, output: OutputFormat) -> None:
    from mlserve.launch.up import up as bring_up

    with _spinner(f"starting {request.serving.name}"):
        done = bring_up(request, note)
    if output is OutputFormat.JSON:
        print_json(_as_json(done.record, request) | {"was_running": done.was_running})
        return
    if done.was_running:
        note(f"{done.record.name} was already started ({done.record.identity})")
    _print_ready(done.record, request)
    note(f"next: {_next_step(request.serving)}")


def _next_step(serving: Serving) -> str:
    """Return a command that asks the model; what it takes is known if mlserve exported it."""
    from mlserve.artifact import Artifact
    from mlserve.input_example import predict_command

    if serving.takes_images:
        return "mlserve predict FILE --timeout 5"
    manifest = Artifact.open(serving.base_path, serving.model, serving.expected[-1]).manifest
    example = predict_command(manifest.signatures) if manifest else None
    return example or "mlserve metadata"


def _run_in_foreground(request: UpRequest, output: OutputFormat) -> None:
    from mlserve.launch.foreground import run_in_foreground

    def on_ready(record: ServerRecord) -> None:
        if output is OutputFormat.JSON:
            print_json(_as_json(record, request))
        else:
            _print_ready(record, request)

    raise typer.Exit(run_in_foreground(request, on_ready, note))


def _print_ready(record: ServerRecord, request: UpRequest) -> None:
    numbers = request.serving.expected
    listed = ", ".join(str(number) for number in numbers)
    what = f"version {listed} is" if len(numbers) == 1 else f"versions {listed} are"
    endpoints = f"grpc {record.grpc_endpoint}  rest {record.rest_endpoint}"
    say(f"{record.serving.model} {what} ready  {endpoints}")
    if record.serving.has_random_weights:
        note("warning: this model has random weights: its answers mean nothing")


def _as_json(record: ServerRecord, request: UpRequest) -> dict[str, Any]:
    endpoints = {"grpc": record.grpc_endpoint, "rest": record.rest_endpoint}
    return record.to_json() | endpoints | {"ready_versions": list(request.serving.expected)}


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    if not is_interactive():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
