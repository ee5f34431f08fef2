"""`mlserve status`: show the versions of a model on a server and their states."""

from __future__ import annotations

from mlserve.cli import clock
from mlserve.cli.output import OutputFormat, OutputOption, print_json, print_table, say
from mlserve.cli.server_choice import ServerChoice, TimeoutOption, address_json, with_server_choice
from mlserve.client import Client, ServerLoad
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Unavailable, readable


@with_server_choice
def status(
    *,
    choice: ServerChoice,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show the versions of a served model, whether they are ready, and the load of the server.

    Exit codes: 0 a version is AVAILABLE, 5 none is, so that this can serve as a probe.

    For example:

    mlserve status --endpoint http://127.0.0.1:8501 --model inception_v3
    """
    deadline = Deadline.after(timeout, since=clock.command_start())
    with choice.find(deadline).connect() as client:
        versions = client.status(timeout=deadline)
        load = _load(client, deadline)
    if output is OutputFormat.JSON:
        print_json(
            {
                "model": client.model,
                "versions": [row.to_json() for row in versions],
                "load": None if load is None else load.to_json(),
                **address_json(client),
            }
        )
    else:
        table = [[_shown(row.version), row.state, readable(row.error)] for row in versions]
        print_table(["version", "state", "error"], table)
        if load is not None:
            say(f"load: {load}")
    if not any(row.is_available for row in versions):
        raise Unavailable(
            f"no version of {client.model} is available at {client.endpoint}",
            hint="see why with mlserve logs (or the log of that server)",
        )


def _load(client: Client, deadline: Deadline) -> ServerLoad | None:
    """Return the server's load; None if that fails, because the states are the actual answer."""
    try:
        return client.load(timeout=deadline)
    except MlserveError:
        return None


def _shown(version: int | None) -> str:
    return "?" if version is None else str(version)
