"""`mlserve deploy compose` and `mlserve deploy systemd`: the server on one machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlserve.cli.arguments import with_fields, with_options
from mlserve.cli.deploy_arguments import Container, Destination, Listening, ModelToDeploy
from mlserve.load_options import LoadOptions
from mlserve.settings import ServerSettings


@with_options(LoadOptions, ServerSettings)
@with_fields
def compose(
    *,
    deployed: ModelToDeploy,
    container: Container,
    listening: Listening,
    where: Destination,
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

    plan = deployed.plan(
        options,
        image=container.image,
        memory=container.memory,
        cpus=container.cpus,
        gpus=container.gpus,
        **listening.of_plan,
    )
    listening.warn(plan.settings)
    next_step = f"docker compose --project-directory {where.output_dir} up --wait"
    where.write(compose_files(plan, listening.host), next_step)


@with_options(LoadOptions, ServerSettings)
@with_fields
def systemd(
    *,
    deployed: ModelToDeploy,
    listening: Listening,
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
        typer.Option(
            metavar="N", help="CPUs that the server may use, such as 2 or 0.5. Default: all."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that the server may use, such as 2Gi or 1500Mi. Default: all.",
        ),
    ] = None,
    gpus: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="GPUs that the server may use. 0 hides the machine's devices."
        ),
    ] = 0,
    where: Destination,
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

    most = None if memory is None else memory_in(memory)
    program = this_program() if executable is None else (executable,)
    plan = deployed.plan(
        options,
        image=None,
        memory=memory,
        cpus=usable_cpus() if cpus is None else cpus,
        gpus=gpus,
        **listening.of_plan,
    )
    listening.warn(plan.settings)
    unit, folder = unit_name(plan), where.output_dir
    where.write(
        unit_files(plan, Machine(program, listening.host, user, cpus, most)),
        f"sudo cp {folder}/{unit}* /etc/systemd/system/ && sudo systemctl daemon-reload && "
        f"sudo systemctl enable --now {unit}-grpc.socket {unit}-rest.socket {unit}",
        as_text=as_text,
    )
