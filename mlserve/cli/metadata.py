"""`mlserve metadata`: what a server says of a model."""

from __future__ import annotations

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


def metadata(
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
    """Show the signatures of a served model, its image pipeline, and how each fact is known.

    For example:

    mlserve metadata --endpoint 127.0.0.1:8500 --model inception_v3
    """
    from mlserve.cli.contract import contract_lines_told
    from mlserve.deadline import Deadline

    deadline = Deadline.after(timeout, since=clock.command_start())
    access = AccessOptions(token_file, tls_ca, tls_cert, tls_key)
    target = Target(endpoint, backend, model, version, protocol, api, access, server)
    asked = target.find(deadline)
    with asked.connect() as client:
        found = client.metadata(timeout=deadline)
    if output is OutputFormat.JSON:
        print_json(found.to_json() | address_json(client))
        return
    shown = "?" if found.version is None else found.version
    say(f"{found.model}, version {shown}, at {client.endpoint}")
    if found.contract is not None:
        for line in contract_lines_told(found.contract):
            say(line)
    rows = [
        [
            signature.name,
            ", ".join(
                f"{s}, optional" if s.name in signature.optional else str(s)
                for s in signature.inputs
            ),
            ", ".join(map(str, signature.outputs)),
        ]
        for signature in found.signatures
    ]
    print_table(["signature", "inputs", "outputs"], rows)
