"""`mlserve deploy`: write the files that run a server elsewhere, from the exported model."""

from __future__ import annotations

import typer

from mlserve.cli import deploy_cluster
from mlserve.cli.usage import Command, CommandGroup

deploy = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Write the files that run a server elsewhere, from the exported model: nothing is "
    "started.\n\nFor example:\n\nmlserve deploy kubernetes --model efficientnet_lite0 --image "
    "registry.example/efficientnet:3 --replicas 2..6 --output-dir k8s/",
)

for _command in (deploy_cluster.kubernetes, deploy_cluster.helm, deploy_cluster.kserve):
    deploy.command(_command.__name__, cls=Command)(_command)
