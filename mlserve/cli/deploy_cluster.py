"""`mlserve deploy kubernetes`, `helm` and `kserve`."""

from __future__ import annotations

from typing import Any

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
    Wait,
    plan_of,
    write_out,
)
from mlserve.cli.output import OutputFormat, OutputOption, note
from mlserve.deploy.kubernetes.values import ClusterSetup
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.settings import READY_WITHIN, ServerSettings


@with_options(ClusterSetup, LoadOptions, ServerSettings)
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
    wait: Wait = READY_WITHIN,
    output_dir: OutputDir = None,
    prints: Print = False,
    force: Force = False,
    output: OutputOption = OutputFormat.TEXT,
    **options: Any,
) -> None:
    """Write the manifests that run a model on Kubernetes.

    Deployment, Services for REST and gRPC, autoscaler, disruption budget, network policy, monitor,
    and routes of the Gateway API where a gateway is named.

    For example:

    mlserve deploy kubernetes --model efficientnet_lite0 --image registry.example/efficientnet:3
    --replicas 2..6 --cpus 2 --memory 2Gi --namespace vision --output-dir k8s/

    mlserve deploy kubernetes --artifacts pvc://models/efficientnet --image mlserve-onnxruntime
    --print
    """
    from mlserve.deploy.kubernetes.configuration import secret_command
    from mlserve.deploy.kubernetes.manifests import manifest_files

    where = Destination(output_dir, prints, force)
    where.require()
    setup = ClusterSetup.taken_from(options)
    _require_image(setup, image)
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
        replicas=setup.replicas,
        cpus=cpus,
        gpus=gpus,
        wait=wait,
    )
    write_out(manifest_files(plan, setup), where, output, f"kubectl apply -k {output_dir}")
    command = secret_command(plan, setup.namespace)
    if command is not None:
        note(f"first    {command}")


def _require_image(setup: ClusterSetup, image: str | None) -> None:
    if setup.artifacts is not None and image is None:
        raise UsageError(
            "--artifacts needs --image: an image with mlserve's server, and without a model",
            hint="build one with docker build -f docker/embedded/Dockerfile --target runtime, and "
            "give its name with --image",
        )
