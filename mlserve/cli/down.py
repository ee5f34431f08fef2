"""`mlserve down`: stop servers that `mlserve up` started."""

from __future__ import annotations

from typing import Annotated

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import server_name
from mlserve.cli.output import OutputFormat, OutputOption, all_told, note, print_json, say


def down(
    name: Annotated[str | None, server_name(completion.servers)] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Stop the server of this backend.",
            autocompletion=completion.backends,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Stop the server of this model.",
            autocompletion=completion.models,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop all servers.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Seconds to let it finish its requests before it is killed. Default: a little "
            "more than its own --drain-timeout.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Stop a server after it has answered the requests that it accepted.

    If no server is running, that is not an error. A third-party server would drop the requests it
    is working on, so it is stopped once no client is connected to it; where that cannot be seen, as
    in a container, after 10 seconds. Until then `mlserve predict` sends it no new ones.

    For example:

    mlserve down

    mlserve down --all --timeout 30
    """
    from mlserve.cli.output import StatusLine
    from mlserve.deadline import check_seconds
    from mlserve.launch.down import chosen, stop_all
    from mlserve.launch.running import reconcile

    if timeout is not None:
        check_seconds("--timeout", timeout)
    records = reconcile()[0] if every else chosen(name=name, backend=backend, model=model)
    if not records:
        note("no server is running")
    line, done = StatusLine(), list[dict[str, object]]()
    try:
        with all_told(done, output, lambda: print_json(done)):
            for stopped in stop_all(records, timeout, line.show):
                line.clear()
                done.append({"name": stopped.record.name, "was_killed": stopped.was_killed})
                if stopped.was_killed:
                    allowed = f"{stopped.allowed:g} s"
                    note(f"{stopped.record.name} did not end within {allowed}: it was killed")
                if output is OutputFormat.TEXT:
                    say(f"{stopped.record.name} is stopped")
    finally:
        line.clear()
