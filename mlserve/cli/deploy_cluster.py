"""`mlserve deploy kubernetes`, `helm` and `kserve`."""

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
from mlserve.cli.output import OutputFormat, OutputOption
from mlserve.load_options import LoadOptions
from mlserve.settings import ServerSettings


@with_options(LoadOptions, ServerSettings)
def kubernetes(
    backend: ExportedBackendOption = None,
    model: ExportedModelOption = None,
    version: DeployedVersion = None,
    path: DeployedPath = None,
    store: StoreOption = None,
    name: DeployName = None,
    image: DeployImage = None,
    cpus: Cpus = 1.0,
    memory: Memory = None,
    gpus: Gpus = 0,
    output_dir: OutputDir = None,
    prints: Print = False,
    force: Force = False,
    output: OutputOption = OutputFormat.TEXT,
    **options: Any,
) -> None:
    """Write the manifests that run a model on Kubernetes."""


def helm() -> None:
    """Write a Helm chart."""


def kserve() -> None:
    """Write a ServingRuntime and an InferenceService for KServe."""
