"""What the commands of `mlserve deploy` share: options, the plan made of them, and the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mlserve.cli.output import OutputFormat, note, print_json, say
from mlserve.deploy.plan import DeployPlan, memory_for, memory_in, name_for
from mlserve.deploy.writing import as_one_text, left_over, write_files
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.settings import ServerSettings

DeployedVersion = Annotated[
    list[str] | None,
    typer.Option(
        "--version",
        metavar="N|all",
        help="The version to serve, or `all`. Repeat it to serve several. Default: the latest.",
    ),
]
DeployedPath = Annotated[
    Path | None,
    typer.Option(
        "--path",
        metavar="DIR",
        help="Deploy this folder of version folders (DIR/1/...) instead of an exported model.",
    ),
]
DeployName = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="What everything is called. Default: made of the model's."
    ),
]
DeployImage = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="The image, with mlserve's own server in it. Default: the one that `mlserve build "
        "--server embedded` makes.",
    ),
]
Cpus = Annotated[
    float,
    typer.Option("--cpus", metavar="N", help="CPUs of a replica; --threads follows it."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory of a replica: 2Gi. Default: 1Gi and three times the size of a version, which "
        "is a guess.",
    ),
]
Gpus = Annotated[int, typer.Option("--gpus", min=0, metavar="N", help="GPUs of a replica.")]
Replicas = Annotated[
    str,
    typer.Option(
        "--replicas",
        metavar="N|MIN..MAX",
        help="How many replicas run: a number, or MIN..MAX to let the load decide.",
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        min=1,
        metavar="SECONDS",
        help="Seconds within which a replica must be ready, or it is started again.",
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", metavar="DIR", help="The folder to write into."),
]
Print = Annotated[bool, typer.Option("--print", help="Write nothing: print the files to stdout.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite files that mlserve deploy has not written, too."),
]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the files go: into a folder, or to stdout."""

    folder: Path | None
    prints: bool
    force: bool = False

    def require(self) -> None:
        """Raise UsageError unless it is one of the two."""
        if (self.folder is None) == (not self.prints):
            raise UsageError(
                "--output-dir and --print exclude each other"
                if self.prints
                else "there is nowhere to write to",
                hint="give --output-dir DIR to write files, or --print to print them",
            )


def plan_of(
    options: dict[str, Any],
    *,
    backend: str | None,
    model: str | None,
    path: Path | None,
    version: Sequence[str] | None,
    store: Path | None,
    name: str | None,
    image: str | None,
    memory: str | None,
    **more: Any,
) -> DeployPlan:
    """Return the plan; `options` are those of `LoadOptions` and `ServerSettings`.

    `more` are further fields of the plan. Raises what the choice of a model raises, and UsageError.
    """
    from dataclasses import replace

    from mlserve import plugins
    from mlserve.backend_choice import require_regarded
    from mlserve.credentials import check_files
    from mlserve.launch.docker.images import image_tag
    from mlserve.model_choice import choose
    from mlserve.store import VersionPolicy

    load_options = LoadOptions.taken_from(options)
    settings = ServerSettings.taken_from(options).absolute()
    check_files(settings)
    chosen = choose(backend, model, path, VersionPolicy.parse(version or []), store)
    chosen = replace(chosen, options=load_options)
    require_regarded(plugins.backend(chosen.backend), load_options)
    return DeployPlan(
        name=name if name is not None else name_for(chosen.model),
        model=chosen,
        settings=settings,
        image=image or image_tag(chosen.backend, chosen.model, chosen.expected[-1]),
        memory=memory_for(chosen) if memory is None else memory_in(memory),
        **more,
    )


def write_out(
    files: Mapping[str, str],
    where: Destination,
    output: OutputFormat,
    next_step: str,
    *,
    as_text: Callable[[Mapping[str, str]], str] = as_one_text,
    command: str | None = None,
) -> None:
    """Write or print the files, and name the next step.

    `as_text` makes one text of them for people. Files that an earlier call of this `command` wrote
    into the folder, and this one did not, are named.
    """
    where.require()
    if where.folder is None:
        if output is OutputFormat.JSON:
            print_json({"texts": dict(files)})
        else:
            say(as_text(files), end="")
        return
    written = write_files(files, where.folder, force=where.force)
    for path in left_over(written, command) if command is not None else ():
        note(f"warning: {path} is from an earlier mlserve deploy {command}: remove it")
    if output is OutputFormat.JSON:
        print_json({"folder": str(where.folder.absolute()), "files": [str(p) for p in written]})
        return
    for path in written:
        say(str(path))
    note(f"next     {next_step}")
