"""`mlserve status`: the versions of a model on a server and their states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve.cli import clock
from mlserve.cli.options import (
    AccessOptions,
    ApiOption,
    BackendOption,
    EndpointOption,
    ModelOption,
    ProtocolOption,
    ServerOption,
    Target,
    TimeoutOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TokenFileOption,
    VersionOption,
    address_json,
)
from mlserve.cli.output import OutputFormat, OutputOption, print_json, print_table, say

if TYPE_CHECKING:
    from mlserve.client import Client, ServerLoad
    from mlserve.deadline import Deadline


def status(
    endpoint: EndpointOption = None,
    server: ServerOption = None,
    backend: BackendOption = None,
    model: ModelOption = None,
    version: VersionOption = None,
    protocol: ProtocolOption = None,
    api: ApiOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout: TimeoutOption = 5.0,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show the versions of a served model, whether they are ready, and the load of the server.

    Exit codes: 0 a version is AVAILABLE, 5 none is, so that this can serve as a probe.

    For example:

    mlserve status --endpoint http://127.0.0.1:8501 --model inception_v3
    """
    from mlserve.client.refusals import readable
    from mlserve.deadline import Deadline
    from mlserve.errors import Unavailable

    deadline = Deadline.after(timeout, since=clock.command_start())
    access = AccessOptions(token_file, tls_ca, tls_cert, tls_key)
    target = Target(endpoint, backend, model, version, protocol, api, access, server)
    asked = target.find(deadline)
    with asked.connect() as client:
        found = client.status(timeout=deadline)
        load = _load(client, deadline)
    if output is OutputFormat.JSON:
        rows = [row.to_json() for row in found]
        said = {"versions": rows, "load": None if load is None else load.to_json()}
        print_json({"model": client.model} | said | address_json(client))
    else:
        table = [[_shown(row.version), row.state, readable(row.error)] for row in found]
        print_table(["version", "state", "error"], table)
        if load is not None:
            say(f"load: {load}")
    if not any(row.is_available for row in found):
        raise Unavailable(
            f"no version of {client.model} is available at {client.endpoint}",
            hint="see why with mlserve logs (or the log of that server)",
        )


def _load(client: Client, deadline: Deadline) -> ServerLoad | None:
    """The server's load, if it tells it: the states are the answer, also without."""
    from mlserve.errors import MlserveError

    try:
        return client.load(timeout=deadline)
    except MlserveError:
        return None


def _shown(version: int | None) -> str:
    return "?" if version is None else str(version)
