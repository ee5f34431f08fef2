"""`mlserve deploy kubernetes`, `helm` and `kserve`, which take the same options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli.arguments import with_fields, with_options
from mlserve.cli.deploy_arguments import Container, Destination, ModelToDeploy
from mlserve.cli.output import note
from mlserve.deploy.kubernetes.values import ClusterSetup
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.settings import READY_WITHIN, ServerSettings

if TYPE_CHECKING:
    from mlserve.deploy.plan import DeployPlan


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas run, and how long one may take to be ready."""

    replicas: Annotated[
        str,
        typer.Option(
            metavar="N|MIN..MAX",
            help="How many replicas run: a number, or MIN..MAX to let the load decide.",
        ),
    ] = "1"
    wait: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Seconds within which a replica must be ready, or it is started again.",
        ),
    ] = READY_WITHIN


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of one of these commands say."""

    plan: DeployPlan
    setup: ClusterSetup
    where: Destination

    def write(
        self, files: Mapping[str, str], next_step: str, command: str, *, are_manifests: bool = True
    ) -> None:
        """Write or print the files; say first how the Secret is made, if one is needed.

        Of manifests, those are printed that `kubectl apply -f -` takes.
        """
        from mlserve.deploy.kubernetes.configuration import secret_command

        secret = secret_command(self.plan, self.setup.namespace)
        if secret is not None:
            note(f"first    {secret}")
        if are_manifests and self.where.prints_text:
            files = _for_kubectl(files)
        self.where.write(files, next_step, command=command)


def _for_kubectl(files: Mapping[str, str]) -> Mapping[str, str]:
    """Return the objects of a cluster alone; say what is left out."""
    from mlserve.deploy.kubernetes.manifests import ADAPTER, KUSTOMIZATION

    others = [name for name in files if name in (ADAPTER, KUSTOMIZATION)]
    note(f"left out: {' and '.join(others)}, not for kubectl apply -f; --output-dir writes them")
    return {name: text for name, text in files.items() if name not in others}


def _for_cluster(command: Callable[[Asked], None]) -> Callable[..., None]:
    """Make a command of it, with all options."""

    @with_options(ClusterSetup, LoadOptions, ServerSettings)
    @with_fields
    def run(
        *,
        deployed: ModelToDeploy,
        container: Container,
        scale: Replicas,
        where: Destination,
        **options: Any,
    ) -> None:
        setup = ClusterSetup.taken_from(options)
        if setup.artifacts is not None and container.image is None:
            raise UsageError(
                "--artifacts needs --image: an image with mlserve's server, and without a model",
                hint="build one with docker build -f docker/embedded/Dockerfile --target runtime, "
                "and give its name with --image",
            )
        plan = deployed.plan(
            options,
            image=container.image,
            memory=container.memory,
            cpus=container.cpus,
            gpus=container.gpus,
            replicas=scale.replicas,
            wait=scale.wait,
        )
        command(Asked(plan, setup, where))

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@_for_cluster
def kubernetes(asked: Asked) -> None:
    """Write the manifests that run a model on Kubernetes.

    Deployment, Services for REST and gRPC, autoscaler, disruption budget, network policy, monitor,
    and routes of the Gateway API where a gateway is named.

    For example:

    mlserve deploy kubernetes --model efficientnet_lite0 --image registry.example/efficientnet:3
    --replicas 2..6 --cpus 2 --memory 2Gi --namespace vision --output-dir k8s/

    mlserve deploy kubernetes --artifacts pvc://models/efficientnet --image mlserve-onnxruntime
    --print
    """
    from mlserve.deploy.kubernetes.manifests import COMMAND, manifest_files

    files = manifest_files(asked.plan, asked.setup)
    asked.write(files, f"kubectl apply -k {asked.where.output_dir}", COMMAND)


@_for_cluster
def helm(asked: Asked) -> None:
    """Write a Helm chart that runs a model on Kubernetes.

    Its templates are the manifests of `mlserve deploy kubernetes`, and the options are its values.

    For example:

    mlserve deploy helm --model efficientnet_lite0 --image registry.example/efficientnet:3
    --replicas 2..6 --output-dir chart/
    """
    from mlserve.deploy.helm import COMMAND, chart_files

    files = chart_files(asked.plan, asked.setup)
    next_step = f"helm install {asked.plan.name} {asked.where.output_dir}"
    asked.write(files, next_step, COMMAND, are_manifests=False)


@_for_cluster
def kserve(asked: Asked) -> None:
    """Write a ServingRuntime and an InferenceService for KServe.

    The storage holds the model's version folders: below /models in an image, at the folder of a
    claim.

    For example:

    mlserve deploy kserve --model efficientnet_lite0 --image registry.example/mlserve-onnxruntime
    --artifacts oci+native://registry.example/efficientnet-files:3 --output-dir kserve/
    """
    from mlserve.deploy.kserve import COMMAND, kserve_files

    files = kserve_files(asked.plan, asked.setup)
    asked.write(files, f"kubectl apply -k {asked.where.output_dir}", COMMAND)
