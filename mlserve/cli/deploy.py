"""`mlserve deploy`: write the files that run a server elsewhere, from the exported model."""

from __future__ import annotations

import typer

from mlserve.cli import deploy_cluster, deploy_machine, deploy_monitoring
from mlserve.cli.usage import Command, CommandGroup

deploy = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Write the files that run a server elsewhere, from the exported model, or that watch it: "
    "nothing is started.\n\nFor example:\n\nmlserve deploy kubernetes --model efficientnet_lite0 "
    "--image registry.example/m:3 --print",
)

_COMMANDS = (
    *(deploy_cluster.kubernetes, deploy_cluster.helm, deploy_cluster.kserve),
    *(deploy_machine.compose, deploy_machine.systemd),
    deploy_monitoring.monitoring,
)
for _command in _COMMANDS:
    deploy.command(_command.__name__, cls=Command)(_command)
