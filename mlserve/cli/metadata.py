"""`mlserve metadata`: show a served model's signatures and pipeline."""

from __future__ import annotations

from mlserve.cli import clock
from mlserve.cli.arguments import with_fields
from mlserve.cli.contract import contract_lines_from_json
from mlserve.cli.output import OutputFormat, OutputOption, print_json, print_table, say
from mlserve.cli.server_choice import ServerChoice, TimeoutOption, address_json
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.deadline import Deadline
from mlserve.tensors import Signature


@with_fields
def metadata(
    *,
    choice: ServerChoice,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show the signatures of a served model, its image pipeline, and how each fact is known.

    For example:

    mlserve metadata

    mlserve metadata --endpoint 127.0.0.1:8500 --model inception_v3
    """
    deadline = Deadline.after(timeout, since=clock.command_start())
    with choice.find(deadline).connect() as client:
        model = client.metadata(timeout=deadline)
    if output is OutputFormat.JSON:
        print_json(model.to_json() | address_json(client))
        return
    shown = "?" if model.version is None else model.version
    say(f"{model.model}, version {shown}, at {client.endpoint}")
    if model.served_by is not None:
        say(f"runs on  {model.served_by}")
    if model.contract is not None:
        for line in contract_lines_from_json(model.contract):
            say(line)
    print_table(["signature", "inputs", "outputs"], [_row(item) for item in model.signatures])


def _row(signature: Signature) -> list[str]:
    inputs = [
        f"{spec}, optional" if spec.name in signature.optional else str(spec)
        for spec in signature.inputs
    ]
    return [signature.name, ", ".join(inputs), ", ".join(map(str, signature.outputs))]
