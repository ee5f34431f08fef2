"""Run a server's container, with its record in a label."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace

from mlserve.backend import Backend
from mlserve.errors import Unavailable, UsageError
from mlserve.launch.command import write_files
from mlserve.launch.docker import container
from mlserve.launch.docker.engine import EngineRefused, docker, engine_info
from mlserve.launch.docker.images import artifact_tag
from mlserve.launch.docker.plan import (
    ContainerPlan,
    mount_user,
    plan_of_built,
    plan_of_published,
    require_mountable,
    run_options,
    server_spec,
)
from mlserve.launch.records import ServerRecord, files_folder, unwritable
from mlserve.serving import Serving

_RUN_TIMEOUT = 120.0
_PORT_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)


def run_container(backend: Backend, draft: ServerRecord) -> ServerRecord:
    """Start the container of a draft record, and return the complete record.

    A container that was created but does not start is removed. Raises NoEngine, UsageError for a
    taken port or a folder that cannot be mounted, Unavailable if it does not start.
    """
    serving = draft.serving
    plan = plan_of(backend, serving)
    _write_files(plan, serving.name)
    require_mountable(plan)
    draft = replace(draft, serving=replace(serving, image=plan.image))
    user = mount_user(is_rootless=engine_info().is_rootless)
    arguments = run_options(plan, draft, user)
    try:
        identity = docker("run", *arguments, timeout=_RUN_TIMEOUT).split()[-1]
    except EngineRefused as error:
        _remove(arguments)
        raise _not_started(error, draft) from error
    except BaseException:
        _remove(arguments)
        raise
    found = container.look(identity)
    return replace(draft, container=identity, pid=0 if found is None else found.pid)


def plan_of(backend: Backend, serving: Serving) -> ContainerPlan:
    """Return the container that serves this, from a third-party image or the artifact's own."""
    spec = server_spec(backend, serving)
    if spec is not None:
        return plan_of_published(spec, serving)
    return plan_of_built(serving.image or artifact_tag(serving), serving)


def _write_files(plan: ContainerPlan, name: str) -> None:
    folder = files_folder(name)
    try:
        write_files(plan.files, folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def _remove(arguments: list[str]) -> None:
    with suppress(EngineRefused):
        docker("rm", "--force", "--volumes", arguments[arguments.index("--name") + 1])


def _not_started(error: EngineRefused, draft: ServerRecord) -> Unavailable | UsageError:
    if _PORT_TAKEN.search(error.output):
        listen = draft.listen
        return UsageError(
            f"port {listen.grpc_port} or {listen.rest_port} was taken while the container started",
            hint="try again, or give free ports with --grpc-port and --rest-port",
        )
    reason = error.message.removeprefix("docker run failed: ")
    return Unavailable(
        f"the container of {draft.name} does not start: {reason}",
        hint=f"is the image {draft.serving.image} the right one? `docker image inspect` shows it; "
        "mlserve doctor checks the engine",
    )
