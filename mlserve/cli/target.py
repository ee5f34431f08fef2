"""Which server a command asks: `--endpoint`, else the one that `mlserve up` recorded."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlserve.cli.access import AccessOptions
from mlserve.cli.output import note

if TYPE_CHECKING:
    from mlserve.client import Client, Retries, Tls
    from mlserve.client.endpoint import Protocol
    from mlserve.client.wire import Api
    from mlserve.deadline import Deadline


class ProtocolName(StrEnum):
    """What to speak to the server."""

    GRPC = "grpc"
    REST = "rest"


class ApiName(StrEnum):
    """Whose API the server speaks."""

    TFS = "tfs"
    OIP = "oip"


EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|URL",
        help="The server to ask: host:port (gRPC) or http://host:port (REST), with TLS grpcs:// or "
        "https://. Default: the running server of `mlserve up`.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Ask the running server of this name, as `mlserve ps` shows it (without --endpoint).",
    ),
]
BackendOption = Annotated[
    str | None, typer.Option(help="Ask the running server of this backend (without --endpoint).")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model to ask. Default: the only one that the server serves.",
    ),
]
VersionOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="The version to ask. Default: the server's choice."),
]
ProtocolOption = Annotated[
    ProtocolName | None,
    typer.Option(help="Default: gRPC, or what the endpoint's URL says."),
]
ApiOption = Annotated[
    ApiName | None,
    typer.Option(
        help="tfs: TensorFlow Serving, version 1; oip: Open Inference Protocol, version 2 (Triton, "
        "KServe, MLServer). Default: found out by asking.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="The whole time allowed, counted from the start of the command.",
    ),
]


def address_json(client: Client) -> dict[str, str | None]:
    """Where and how a client asked, as data."""
    endpoint = client.endpoint
    return {"endpoint": str(endpoint), "protocol": endpoint.protocol, "api": client.api}


@dataclass(frozen=True, slots=True)
class Server:
    """A server to ask. `model` None is the only one that it serves."""

    endpoint: str
    model: str | None
    version: int | None
    protocol: ProtocolName | None
    api: ApiName | None = None
    has_random_weights: bool = False
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def connect(
        self, *, retries: Retries | None = None, max_answer_bytes: int | None = None
    ) -> Client:
        """A client of the server; nothing is sent yet. What is None is the client's default.

        Warns of a token that would go over a network in the clear. Raises UsageError for a bad
        endpoint.
        """
        from mlserve.client import Client
        from mlserve.client.aio import DEFAULT_MAX_ANSWER_BYTES, DEFAULT_RETRIES

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client = Client(
                self.endpoint,
                protocol=cast("Protocol | None", self.protocol and self.protocol.value),
                model=self.model,
                version=self.version,
                api=cast("Api | None", self.api and self.api.value),
                token=self.token,
                tls=self.tls,
                retries=retries or DEFAULT_RETRIES,
                max_answer_bytes=max_answer_bytes or DEFAULT_MAX_ANSWER_BYTES,
            )
        for warning in caught:
            note(f"warning: {warning.message}")
        return client


@dataclass(frozen=True, slots=True)
class Target:
    """What the user's options say of the server to ask."""

    endpoint: str | None = None
    backend: str | None = None
    model: str | None = None
    version: int | None = None
    protocol: ProtocolName | None = None
    api: ApiName | None = None
    access: AccessOptions = field(default_factory=AccessOptions)
    server: str | None = None

    def find(self, deadline: Deadline) -> Server:
        """The server that the options mean.

        Raises Unavailable when none runs, and UsageError when several fit, or when --endpoint is
        given beside what chooses among the running ones.
        """
        if self.endpoint is None:
            return self._running(deadline)
        if self.backend is not None or self.server is not None:
            from mlserve.errors import UsageError

            option = "--backend" if self.server is None else "--server"
            raise UsageError(
                f"{option} chooses among running servers and --endpoint names one",
                hint="give only one of the two",
            )
        token, tls = self.access.to_endpoint(deadline)
        return Server(
            self.endpoint,
            self.model,
            self.version,
            self.protocol,
            self.api,
            token=token,
            tls=tls,
        )

    def _running(self, deadline: Deadline) -> Server:
        from mlserve.launch.state import read_records, select
        from mlserve.system import run_within

        records = run_within(deadline, "looking for the running server", read_records)
        record = select(records, backend=self.backend, model=self.model, name=self.server)
        record.require_staying()
        is_rest = self.protocol is ProtocolName.REST
        endpoint = record.rest_endpoint if is_rest else record.grpc_endpoint
        token, tls = self.access.to_recorded(record, deadline)
        return Server(
            endpoint,
            record.model,
            self.version,
            self.protocol,
            self.api,
            record.has_random_weights,
            token,
            tls,
        )
