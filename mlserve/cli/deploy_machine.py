"""`mlserve deploy compose` and `mlserve deploy systemd`: the server on one machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlserve.cli.arguments import (
    ExportedBackendOption,
    ExportedModelOption,
    StoreOption,
    with_options,
)
from mlserve.cli.deploy_arguments import (
    Cpus,
    DeployedPath,
    DeployedVersion,
    DeployImage,
    DeployName,
    Destination,
    Force,
    Gpus,
    Memory,
    OutputDir,
    Print,
    plan_of,
    write_out,
)
from mlserve.cli.output import OutputFormat, OutputOption, note
from mlserve.load_options import LoadOptions
from mlserve.settings import DEFAULT_HOST, GRPC_PORT, READY_WITHIN, REST_PORT, ServerSettings

Host = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="The IP address to listen on.")
]
GrpcPort = Annotated[
    int, typer.Option("--grpc-port", min=1, max=65535, metavar="PORT", help="The gRPC port.")
]
RestPort = Annotated[
    int, typer.Option("--rest-port", min=1, max=65535, metavar="PORT", help="The REST port.")
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0.001,
        metavar="SECONDS",
        help="Seconds within which the server must be ready.",
    ),
]


@with_options(LoadOptions, ServerSettings)
def compose(
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: DeployedVersion = None,
    path: DeployedPath = None,
    store: StoreOption = None,
    name: DeployName = None,
    image: DeployImage = None,
    host: Host = DEFAULT_HOST,
    grpc_port: GrpcPort = GRPC_PORT,
    rest_port: RestPort = REST_PORT,
    cpus: Cpus = 1.0,
    memory: Memory = None,
    gpus: Gpus = 0,
    wait: Wait = READY_WITHIN,
    output_dir: OutputDir = None,
    prints: Print = False,
    force: Force = False,
    output: OutputOption = OutputFormat.TEXT,
    **options: Any,
) -> None:
    """Write a compose file that runs the image of a model.

    The container is read-only, without capabilities and not root, with a health check, limits, and
    time to drain. Token and TLS files become secrets.

    For example:

    mlserve build --backend onnxruntime && mlserve deploy compose --backend onnxruntime --cpus 2
    --output-dir . && docker compose up --wait
    """
    from mlserve.deploy.compose import compose_files

    where = Destination(output_dir, prints, force)
    where.require()
    plan = plan_of(
        options,
        backend=backend,
        model=model,
        path=path,
        version=version,
        store=store,
        name=name,
        image=image,
        memory=memory,
        cpus=cpus,
        gpus=gpus,
        grpc_port=grpc_port,
        rest_port=rest_port,
        wait=wait,
    )
    _warn(plan.settings, host)
    files = compose_files(plan, host)
    write_out(files, where, output, f"docker compose --project-directory {output_dir} up --wait")


@with_options(LoadOptions, ServerSettings)
def systemd(
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: DeployedVersion = None,
    path: DeployedPath = None,
    store: StoreOption = None,
    name: DeployName = None,
    host: Host = DEFAULT_HOST,
    grpc_port: GrpcPort = GRPC_PORT,
    rest_port: RestPort = REST_PORT,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The user who serves. Default: one that exists while the service runs "
            "(DynamicUser=).",
        ),
    ] = None,
    executable: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The command mlserve of the unit. Default: the one that runs now."
        ),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(metavar="N", help="CPUs that the server may use. Default: all."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory that it may use: 2Gi. Default: all."),
    ] = None,
    gpus: Gpus = 0,
    wait: Wait = READY_WITHIN,
    output_dir: OutputDir = None,
    prints: Print = False,
    force: Force = False,
    output: OutputOption = OutputFormat.TEXT,
    **options: Any,
) -> None:
    """Write the units that run a model under systemd: a service and its sockets.

    systemd holds both ports, so that a restart loses no connection. The service is ready when the
    model is, drains when it is stopped, and is sandboxed.

    For example:

    mlserve deploy systemd --model efficientnet_lite0 --output-dir units/

    sudo cp units/* /etc/systemd/system/ && sudo systemctl daemon-reload
    """
    from mlserve.deploy.plan import memory_in
    from mlserve.deploy.systemd import Machine, as_text, this_program, unit_files, unit_name
    from mlserve.system import usable_cpus

    where = Destination(output_dir, prints, force)
    where.require()
    most = None if memory is None else memory_in(memory)
    program = this_program() if executable is None else (executable,)
    machine = Machine(program, host, user, cpus, most)
    plan = plan_of(
        options,
        backend=backend,
        model=model,
        path=path,
        version=version,
        store=store,
        name=name,
        image=None,
        memory=memory,
        gpus=gpus,
        grpc_port=grpc_port,
        rest_port=rest_port,
        wait=wait,
        cpus=usable_cpus() if cpus is None else cpus,
    )
    _warn(plan.settings, host)
    files = unit_files(plan, machine)
    unit = unit_name(plan)
    write_out(
        files,
        where,
        output,
        f"sudo cp {output_dir}/{unit}* /etc/systemd/system/ && sudo systemctl daemon-reload && "
        f"sudo systemctl enable --now {unit}-grpc.socket {unit}-rest.socket {unit}",
        as_text=as_text,
    )


def _warn(settings: ServerSettings, host: str) -> None:
    for risk in settings.exposure(host):
        note(f"warning: {risk}")
