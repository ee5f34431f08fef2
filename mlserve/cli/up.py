"""`mlserve up`: start a server for an exported model, in the background or the foreground."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli import browser, completion
from mlserve.cli.arguments import (
    ExportedBackendOption,
    ExportedModelOption,
    StoreOption,
    with_options,
)
from mlserve.cli.auto import choose_fastest, require_auto
from mlserve.cli.defaults import document_of
from mlserve.cli.export_choice import export_of
from mlserve.cli.output import OutputFormat, OutputOption, is_interactive, note, print_json, say
from mlserve.cli.usage import meant_option
from mlserve.cluster_options import ClusterOptions
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.options import flag_of
from mlserve.rollout import NO_LADDER, RolloutOptions
from mlserve.serving import Serving
from mlserve.settings import (
    AUTO,
    DEFAULT_HOST,
    DOCKER,
    EMBEDDED,
    GRPC_PORT,
    READY_WITHIN,
    REST_PORT,
    ServerSettings,
)

if TYPE_CHECKING:
    from mlserve.config.document import Document
    from mlserve.config.servers import Config, ServerConfig
    from mlserve.launch.records import ServerRecord
    from mlserve.launch.up import UpRequest
    from mlserve.served_model import ServedModel
    from mlserve.store import VersionPolicy

    Opens = Callable[[ServerRecord], None]
    """What is done with a server that is ready."""


@with_options(LoadOptions, ServerSettings, ClusterOptions)
def up(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The server of the configuration file to start, with all its models.",
            show_default=False,
            autocompletion=completion.described,
        ),
    ] = None,
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|all",
            help="The version to serve, or `all`. Repeat it to serve several. Default: the pinned "
            "one or the latest, also when a newer one is exported later.",
            autocompletion=completion.versions_or_all,
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
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Serve the fastest artifact of the model whose certificate holds here: of each "
            "backend and precision the latest version is measured first.",
        ),
    ] = False,
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
        str,
        typer.Option(
            metavar="ADDRESS", help="The address to listen on; 0.0.0.0 is all of the machine's."
        ),
    ] = DEFAULT_HOST,
    launcher: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What to start: the runtime's own server (native), mlserve's (embedded), a "
            "container (docker), replicas on the machines of a Ray cluster (ray), what another "
            "plugin has, or the native one if it is on PATH, else mlserve's (auto).",
            autocompletion=completion.launchers,
        ),
    ] = AUTO,
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
    open_page: Annotated[
        bool,
        typer.Option("--open", help="Open the server's page in a browser once it is ready."),
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

    NAME is a server that a configuration file describes, with all its models and settings; without
    NAME and without options that choose a model, the only server of the file, if there is one.

    For example:

    mlserve up && mlserve predict horse.jpg --timeout 5 && mlserve down

    mlserve up --backend onnxruntime --threads 2

    mlserve up --auto --model inception_v3

    mlserve up --launcher docker --docker-option=--memory=2g
    """
    from mlserve.credentials import check_files
    from mlserve.launch.launchers import check_launcher
    from mlserve.launch.ports import PortRequest
    from mlserve.launch.up import request_up
    from mlserve.model_choice import choose_ladder
    from mlserve.store import VersionPolicy
    from mlserve.tune.advice import advised, naming_tuned

    versions = VersionPolicy.parse(version or [])
    given = _given(context)
    check_launcher(launcher)
    about: dict[str, Any] = {}
    if auto and name is not None:
        require_auto(given, launcher)
    config = described_in_file(document_of(context), name, given)
    if config is not None:
        request = _request_of(config, wait if "wait" in given else config.wait)
    else:
        if launcher != DOCKER and (image or docker_option):
            raise UsageError(
                "--image and --docker-option are for containers", hint="add --launcher docker"
            )
        load_options = LoadOptions.taken_from(options)
        settings = ServerSettings.taken_from(options).absolute()
        cluster = ClusterOptions.taken_from(options)
        check_files(settings)
        rollout = settings.rollout
        _check_rollout(rollout, auto=auto, ladder=load_options.ladder)
        versions = replace(versions, aside=rollout.aside)
        choice = backend, model, path, versions, store
        if auto:
            require_auto(given, launcher)
            fastest, about = choose_fastest(model, backend, store, load_options, output)
            chosen, launcher = replace(fastest, options=load_options), EMBEDDED
        elif load_options.ladder is not None:
            chosen = choose_ladder(load_options, *choice)
        else:
            chosen = replace(export_of(*choice), options=load_options)
        chosen = replace(chosen, rollout=rollout)
        serving = Serving((chosen,), settings, image, tuple(docker_option or ()), cluster=cluster)
        request = request_up(serving, PortRequest(host, grpc_port, rest_port), launcher, wait)
        request = advised(request, _chosen(context), note)
    _tell_of_second_versions(request)
    if open_page:
        browser.require_page(request)
    _tell_of_pins(request, None if config is not None else versions)
    opens = browser.open_page if open_page else _open_nothing
    with naming_tuned(request):
        if foreground:
            _run_in_foreground(request, output, about, opens)
        else:
            _start_in_background(request, output, about, opens)


def _tell_of_pins(request: UpRequest, asked: VersionPolicy | None) -> None:
    """Say which models have a pinned version; `asked` are the versions of the command line."""
    from mlserve.model_choice import about_pin

    for model in request.serving.models:
        told = about_pin(asked or model.versions, model, follows_pin=request.traits.follows_pin)
        if told is not None and model.options.ladder is None:
            note(told)


def _check_rollout(rollout: RolloutOptions, *, auto: bool, ladder: str | None) -> None:
    """Raise UsageError for a second version where there can be none, and for a bad endpoint."""
    for flag in rollout.flags:
        if auto:
            raise UsageError(
                f"--auto chooses what to serve, and {flag} does too", hint="leave one of them out"
            )
        if ladder is not None:
            message, hint = NO_LADDER
            raise UsageError(message, hint=hint)
    if rollout.shadow_endpoint is not None:
        from mlserve.client.endpoint import Endpoint  # most servers ask no other

        Endpoint.parse(rollout.shadow_endpoint)


def _tell_of_second_versions(request: UpRequest) -> None:
    """Say which models have a second version that is the one in use anyway."""
    for model in request.serving.models:
        if model.rollout.aside in model.expected:
            note(
                f"version {model.rollout.aside} of {model.model} is the one in use, so there is "
                "nothing to compare: serve another with --version, or mlserve models use"
            )


_CHOOSING = {"auto", "backend", "model", "version", "path", "store", "image", "docker_option"}
"""Parameters that say what to serve, so that no file is looked for."""
_WITH_FILE = {"name", "wait", "foreground", "open_page", "output"}
"""Parameters for a server of a file: everything else is in the file."""


def _given(context: typer.Context) -> set[str]:
    """Return the names of the parameters that are on the command line."""
    return {name for name, source in _sources(context) if source == "COMMANDLINE"}


def _chosen(context: typer.Context) -> set[str]:
    """Return the names of the parameters that the user has set, wherever."""
    return {name for name, source in _sources(context) if source != "DEFAULT"}


def _sources(context: typer.Context) -> Iterator[tuple[str, str]]:
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None:
            yield name, source.name


def described_in_file(
    document: Document | None, name: str | None, given: set[str]
) -> ServerConfig | None:
    """Return the server that the configuration file describes; None if options describe it.

    Raises UsageError for a bad file and for options beside it, NotFound for another name.
    """
    if name is None and (document is None or given & _CHOOSING):
        return None
    if document is None:
        meant = meant_option(name or "", ("--backend", "--path", "--model"))
        raise UsageError(
            f"there is no configuration file that describes a server {name!r}",
            hint=f"{meant} a server needs a file: mlserve config init",
        )
    from mlserve.config.servers import servers_of  # of use only where there is a file

    config = servers_of(document)
    if name is None and not config.servers:
        return None
    server = _only_server(config) if name is None else config.server(name)
    for option in sorted(given - _WITH_FILE):
        raise UsageError(
            f"{flag_of(option)} is not for the server {server.name!r}, which {document.shown} "
            "describes",
            hint=f"write it there, in [servers.{server.name}], or name the model to serve with "
            "--model",
        )
    return server


def _only_server(config: Config) -> ServerConfig:
    if len(config.servers) == 1:
        return config.servers[0]
    names = [server.name for server in config.servers]
    raise UsageError(
        f"{config.path} describes {len(names)} servers: {', '.join(names)}",
        hint=f"choose one by its name, for example: mlserve up {names[0]}",
    )


def _request_of(config: ServerConfig, wait: float) -> UpRequest:
    """Return the request for a server of a file, once it is sure that its models can load."""
    from mlserve.credentials import check_files
    from mlserve.launch.ports import PortRequest
    from mlserve.launch.up import request_up
    from mlserve.model_choice import configured_models
    from mlserve.serving import ConfigEntry

    assert config.source is not None, "it was read from a file"
    check_files(config.settings)
    serving = Serving(
        configured_models(config),
        config.settings,
        config=ConfigEntry(config.source, config.name),
    )
    where = PortRequest(config.host, config.grpc_port, config.rest_port)
    return request_up(serving, where, config.launcher, wait)


def _open_nothing(record: ServerRecord) -> None:
    """Leave the browser alone."""


def _start_in_background(
    request: UpRequest, output: OutputFormat, about: Mapping[str, Any], opens: Opens
) -> None:
    """Start it, report, and open its page; `about` goes into the report as JSON."""
    from mlserve.launch.up import up as bring_up

    with _spinner(f"starting {request.serving.name}"):
        done = bring_up(request, note)
    if output is OutputFormat.JSON:
        print_json(_as_json(done.record, request) | {"was_running": done.was_running, **about})
        opens(done.record)
        return
    if done.was_running:
        note(f"{done.record.name} was already started ({done.record.identity})")
    _print_ready(done.record, request)
    note(f"next: {_next_step(request.serving, done.record)}")
    if browser.has_page(request):
        note(f"or in a browser: {browser.address_of(done.record)}")
    opens(done.record)


def _next_step(serving: Serving, record: ServerRecord) -> str:
    """Return a command that asks the model; what it takes is known if mlserve exported it."""
    from mlserve.artifact import Artifact
    from mlserve.input_example import predict_command
    from mlserve.launch.records import read_records
    from mlserve.launch.running import among_running

    model = serving.models[0]
    one_of = f" --model {model.model}" if len(serving.models) > 1 else ""
    if len(among_running(read_records(lambda _: None))) > 1:
        one_of += f" --server {record.name}"
    if model.takes_images:
        return f"mlserve predict FILE --timeout 5{one_of}"
    manifest = Artifact.open(model.base_path, model.model, model.expected[-1]).manifest
    texts = manifest.details.get("texts", {}) if manifest else {}
    example = predict_command(manifest.signatures, texts) if manifest else None
    return (example or "mlserve metadata") + one_of


def _run_in_foreground(
    request: UpRequest, output: OutputFormat, about: Mapping[str, Any], opens: Opens
) -> None:
    from mlserve.launch.foreground import run_in_foreground

    def on_ready(record: ServerRecord) -> None:
        if output is OutputFormat.JSON:
            print_json({**_as_json(record, request), **about})
        else:
            _print_ready(record, request)
        opens(record)

    raise typer.Exit(run_in_foreground(request, on_ready, note))


def _print_ready(record: ServerRecord, request: UpRequest) -> None:
    models = request.serving.models
    endpoints = f"grpc {record.grpc_endpoint}  rest {record.rest_endpoint}"
    if len(models) == 1:
        say(f"{_versions_ready(models[0])}  {endpoints}")
    else:
        for model in models:
            say(_versions_ready(model))
        say(f"{record.name} is ready  {endpoints}")
    random = [model.model for model in models if model.has_random_weights]
    if random:
        which = "this model has" if len(models) == 1 else f"{', '.join(random)}:"
        note(f"warning: {which} random weights: its answers mean nothing")


def _versions_ready(model: ServedModel) -> str:
    listed = ", ".join(str(number) for number in model.expected)
    what = f"version {listed} is" if len(model.expected) == 1 else f"versions {listed} are"
    return f"{model.model} {what} ready"


def _as_json(record: ServerRecord, request: UpRequest) -> dict[str, Any]:
    models = request.serving.models
    versions = {"ready_versions": list(models[0].expected)} if len(models) == 1 else {}
    endpoints = {"grpc": record.grpc_endpoint, "rest": record.rest_endpoint}
    return record.to_json() | endpoints | versions


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    if not is_interactive():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
