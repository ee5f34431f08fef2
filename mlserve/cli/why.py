"""`mlserve why`: tell why a server refused a request, or what became of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import clock
from mlserve.cli.arguments import with_fields
from mlserve.cli.output import OutputFormat, OutputOption, print_json, print_wrapped
from mlserve.cli.server_choice import ServerChoice, TimeoutOption, address_json
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.deadline import Deadline
from mlserve.errors import NotFound, UsageError

if TYPE_CHECKING:
    from mlserve.admission.recording import Recording

_AN_ID = re.compile(r"[!-~]{1,128}")


@with_fields
def why(
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID",
            help="The request's id: the header x-request-id of the answer, `request_id` in the "
            "log and in `mlserve predict --output json`.",
            show_default=False,
        ),
    ],
    *,
    choice: ServerChoice,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Tell why a server refused a request, or what became of it.

    A server remembers what it decided on its last 20,000 calls. A client that asks again does so
    with the same id: then each try is explained. Times of day are in UTC, as in the log.

    For example:

    mlserve why 8f3a0c5e6b1d4f7a9e2c3b5d7f901234
    """
    from mlserve.audit.explanation import about, explained, to_json

    if not _AN_ID.fullmatch(request_id):
        raise UsageError(
            f"{request_id!r} is no request's id: that has 1 to 128 visible ASCII characters",
            hint="it is the header x-request-id of the answer",
        )
    deadline = Deadline.after(timeout, since=clock.command_start())
    server = choice.find_each(deadline)[0]
    with server.connect() as client:
        recording = client.decisions(request_id, timeout=deadline)
    decisions = recording.decisions
    if not decisions:
        raise _unknown(request_id, recording, of_replicas=server.replicas_at is not None)
    if output is OutputFormat.JSON:
        tries = [to_json(recording, decision) for decision in decisions]
        print_json({"request_id": request_id, "decisions": tries} | address_json(client))
        return
    for number, decision in enumerate(decisions, 1):
        first = f"{number}. " if len(decisions) > 1 else ""
        print_wrapped(
            f"{about(decision)}: {explained(recording, decision)}", " " * len(first), first=first
        )


def _unknown(request_id: str, recording: Recording, *, of_replicas: bool) -> NotFound:
    if of_replicas:
        return NotFound(
            f"the replica that was asked remembers no call {request_id!r}, but it may have gone to "
            "another",
            hint="run this again, which may ask another one; or ask each at its own address, as "
            "`mlserve status` shows it: mlserve why REQUEST_ID --endpoint http://HOST:PORT",
        )
    return NotFound(
        f"the server remembers no call {request_id!r}: it knows its last {recording.kept} calls",
        hint="requests that never came to a decision are in its log: a wrong token, an unknown "
        "model, a body too large (mlserve logs)",
    )
