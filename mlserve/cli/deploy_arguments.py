"""What the commands of `mlserve deploy` share: groups of options, and the plan made of them.

Each field of a group is an option of every command that takes the group (`with_fields`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import ExportedBackendOption, ExportedModelOption, StoreOption
from mlserve.cli.export_choice import export_of
from mlserve.cli.output import OutputFormat, OutputOption, note, print_json, say
from mlserve.deploy.plan import DeployPlan, memory_for, memory_in, name_for
from mlserve.deploy.writing import as_one_text, left_over, write_files
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.settings import DEFAULT_HOST, GRPC_PORT, READY_WITHIN, REST_PORT, ServerSettings


@dataclass(frozen=True, slots=True)
class ModelToDeploy:
    """Which versions of which model are deployed, and what everything is called."""

    backend: ExportedBackendOption = None
    model: ExportedModelOption = None
    version: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|all",
            help="The version to serve, or `all`. Repeat it to serve several. Default: the pinned "
            "one or the latest.",
            autocompletion=completion.versions_or_all,
        ),
    ] = None
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Deploy this folder of version folders (DIR/1/...) instead of an exported model.",
        ),
    ] = None
    store: StoreOption = None
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name of everything that is made: services, files, units. Default: made of "
            "the model's name.",
        ),
    ] = None

    def plan(
        self, options: dict[str, Any], *, image: str | None, memory: str | None, **more: Any
    ) -> DeployPlan:
        """Return the plan; `options` are those of `LoadOptions` and `ServerSettings`.

        `more` are further fields of the plan. Raises what the choice of a model raises, and
        UsageError.
        """
        from dataclasses import replace

        from mlserve import plugins
        from mlserve.backend_choice import require_regarded
        from mlserve.credentials import check_files
        from mlserve.launch.docker.images import image_tag
        from mlserve.store import VersionPolicy

        load_options = LoadOptions.taken_from(options)
        settings = ServerSettings.taken_from(options).absolute()
        check_files(settings)
        versions = VersionPolicy.parse(self.version or [])
        chosen = export_of(self.backend, self.model, self.path, versions, self.store)
        chosen = replace(chosen, options=load_options)
        require_regarded(plugins.backend(chosen.backend), load_options)
        return DeployPlan(
            name=self.name if self.name is not None else name_for(chosen.model),
            model=chosen,
            settings=settings,
            image=image or image_tag(chosen.backend, chosen.model, chosen.expected[-1]),
            memory=memory_for(chosen) if memory is None else memory_in(memory),
            **more,
        )


@dataclass(frozen=True, slots=True)
class Container:
    """The image of the server, and what a container of it gets of the machine."""

    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="The image, with mlserve's own server in it. Default: the one that `mlserve "
            "build --server embedded` makes.",
        ),
    ] = None
    cpus: Annotated[
        float,
        typer.Option(
            metavar="N", help="CPUs that a container has, such as 2 or 0.5; --threads follows it."
        ),
    ] = 1.0
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that a container has, such as 2Gi or 1500Mi. Default: 1Gi and three times "
            "the size of a version, which is a guess.",
        ),
    ] = None
    gpus: Annotated[
        int, typer.Option(min=0, metavar="N", help="GPUs that a container has, whole ones.")
    ] = 0


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server on one machine listens, and when it has to be ready."""

    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The IP address to listen on; 0.0.0.0 is all of the machine's.",
        ),
    ] = DEFAULT_HOST
    grpc_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="The gRPC port.")
    ] = GRPC_PORT
    rest_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="The REST port.")
    ] = REST_PORT
    wait: Annotated[
        float,
        typer.Option(
            min=0.001, metavar="SECONDS", help="Seconds within which the server must be ready."
        ),
    ] = READY_WITHIN

    @property
    def of_plan(self) -> dict[str, Any]:
        """The fields of a plan that it says."""
        return {"grpc_port": self.grpc_port, "rest_port": self.rest_port, "wait": self.wait}

    def warn(self, settings: ServerSettings) -> None:
        """Say what is risky about listening there with these settings."""
        for risk in settings.exposure(self.host):
            note(f"warning: {risk}")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the files go: into a folder, or to stdout. Raises UsageError for neither, or both."""

    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write into.")
    ] = None
    prints: Annotated[
        bool, typer.Option("--print", help="Write nothing: print the files to stdout.")
    ] = False
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite files that mlserve deploy has not written, too."),
    ] = False
    output: OutputOption = OutputFormat.TEXT

    def __post_init__(self) -> None:
        if (self.output_dir is None) == (not self.prints):
            raise UsageError(
                "--output-dir and --print exclude each other"
                if self.prints
                else "there is nowhere to write to",
                hint="give --output-dir DIR to write files, or --print to print them",
            )

    @property
    def prints_text(self) -> bool:
        """Whether the files are printed for people, and for what reads from a pipe."""
        return self.prints and self.output is OutputFormat.TEXT

    def write(
        self,
        files: Mapping[str, str],
        next_step: str,
        *,
        as_text: Callable[[Mapping[str, str]], str] = as_one_text,
        command: str | None = None,
    ) -> None:
        """Write or print the files, and name the next step.

        `as_text` makes one text of them for people. Files that an earlier call of this `command`
        wrote into the folder, and this one did not, are named.
        """
        if self.output_dir is None:
            if self.output is OutputFormat.JSON:
                print_json({"texts": dict(files)})
            else:
                say(as_text(files), end="")
            return
        written = write_files(files, self.output_dir, force=self.force)
        for path in left_over(written, command) if command is not None else ():
            note(f"warning: {path} is from an earlier mlserve deploy {command}: remove it")
        if self.output is OutputFormat.JSON:
            folder = str(self.output_dir.absolute())
            print_json({"folder": folder, "files": [str(path) for path in written]})
            return
        for path in written:
            say(str(path))
        note(f"next     {next_step}")
