"""Groups of options that several commands share: the server asked, access, the exported model."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from mlserve.cli.output import note
from mlserve.credentials import TOKEN_VARIABLE
from mlserve.settings import Description, Options, described

if TYPE_CHECKING:
    from mlserve.client import Client, Retries, Tls
    from mlserve.client.adapter import Api
    from mlserve.client.endpoint import ProtocolName
    from mlserve.deadline import Deadline
    from mlserve.launch.records import ServerRecord


_PANEL = "Access"

TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TOKEN_FILE",
        rich_help_panel=_PANEL,
        help="File with the server's token. Default: the running server's own, else the token in "
        f"{TOKEN_VARIABLE}.",
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TLS_CA",
        rich_help_panel=_PANEL,
        help="PEM file with the authority (CA) that signed the server's certificate, or with the "
        "certificate itself. Default: the running server's own, else those the system trusts.",
    ),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TLS_CERT",
        rich_help_panel=_PANEL,
        help="PEM file with the client certificate, for a server that asks for one.",
    ),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MLSERVE_TLS_KEY",
        rich_help_panel=_PANEL,
        help="PEM file with the private key of the client certificate.",
    ),
]


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """What the user gave of a token and of TLS."""

    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def to_endpoint(self, deadline: Deadline) -> tuple[str | None, Tls | None]:
        """The token and the TLS files for a server that the user names.

        Raises UsageError, and DeadlineExceeded when the file system does not answer.
        """
        return self._token(None, deadline), self._tls()

    def to_recorded(
        self, record: ServerRecord, deadline: Deadline
    ) -> tuple[str | None, Tls | None]:
        """The token and the TLS files for a server of `mlserve up`; what is given goes first.

        Raises as `to_endpoint`.
        """
        token = self._token(record.serving.settings.token_file, deadline)
        recorded, given = _recorded_tls(record, deadline), self._tls()
        if recorded is None or given is None:
            return token, recorded
        if given.ca is not None:
            return token, given
        return token, replace(recorded, cert=given.cert, key=given.key)

    def _token(self, recorded: Path | None, deadline: Deadline) -> str | None:
        path = self.token_file or recorded
        if path is None:
            return os.environ.get(TOKEN_VARIABLE)
        from mlserve.credentials import read_token
        from mlserve.threads import run_within

        return run_within(deadline, f"reading {path}", lambda: read_token(path)).decode()

    def _tls(self) -> Tls | None:
        if self.tls_ca is None and self.tls_cert is None and self.tls_key is None:
            return None
        from mlserve.client import Tls

        return Tls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)


def _recorded_tls(record: ServerRecord, deadline: Deadline) -> Tls | None:
    if not record.serving.settings.speaks_tls:
        return None
    from mlserve.launch.access import tls_of
    from mlserve.threads import run_within

    doing = f"reading {record.serving.settings.tls_cert}"
    return run_within(deadline, doing, lambda: tls_of(record))


class ProtocolChoice(StrEnum):
    """What to speak to the server."""

    GRPC = "grpc"
    REST = "rest"


class ApiChoice(StrEnum):
    """Whose API the server speaks."""

    TFS = "tfs"
    OIP = "oip"


EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|URL",
        help="The server to ask: host:port (gRPC) or http://host:port (REST); with TLS, grpcs:// "
        "or https://. Default: the running server that `mlserve up` started.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Ask the running server of this name, as `mlserve ps` lists it. Not with --endpoint.",
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Ask the running server of this backend. Not with --endpoint."
    ),
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
    ProtocolChoice | None,
    typer.Option(help="The transport. Default: what the endpoint's URL says, else gRPC."),
]
ApiOption = Annotated[
    ApiChoice | None,
    typer.Option(
        help="The API: tfs is TensorFlow Serving's, version 1; oip is the Open Inference Protocol, "
        "version 2 (Triton, KServe, MLServer). Default: what the server turns out to speak.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="The total time allowed, in seconds, from the start of the command.",
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
    protocol: ProtocolChoice | None
    api: ApiChoice | None = None
    has_random_weights: bool = False
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def connect(
        self, *, retries: Retries | None = None, max_answer_bytes: int | None = None
    ) -> Client:
        """A client of the server; nothing is sent yet. What is None is the client's default.

        Warns of a token that would go over a network unencrypted. Raises UsageError for a bad
        endpoint.
        """
        from mlserve.client import Client
        from mlserve.client.client import DEFAULT_MAX_ANSWER_BYTES, DEFAULT_RETRIES

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client = Client(
                self.endpoint,
                protocol=cast("ProtocolName | None", self.protocol and self.protocol.value),
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
    protocol: ProtocolChoice | None = None
    api: ApiChoice | None = None
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
        from mlserve.launch.records import read_records, select
        from mlserve.threads import run_within

        records = run_within(deadline, "looking for the running server", read_records)
        record = select(records, backend=self.backend, model=self.model, name=self.server)
        record.require_staying()
        is_rest = self.protocol is ProtocolChoice.REST
        endpoint = record.rest_endpoint if is_rest else record.grpc_endpoint
        token, tls = self.access.to_recorded(record, deadline)
        return Server(
            endpoint,
            record.serving.model,
            self.version,
            self.protocol,
            self.api,
            record.serving.has_random_weights,
            token,
            tls,
        )


ExportedBackendOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The backend. Default: the one that has an exported model."),
]
ExportedModelOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The model. Default: the only exported one."),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of exported models. Default: `models` in your data folder, or in "
        "MLSERVE_HOME.",
    ),
]


Command = TypeVar("Command", bound=Callable[..., None])


def with_options(*groups: type[Options]) -> Callable[[Command], Command]:
    """Gives a command an option for each field of these classes; it gets them by keyword.

    Typer reads the options from the signature, where they stand in the place of `**options`.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters += [_parameter(item) for group in groups for item in described(group)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(setting: Description) -> inspect.Parameter:
    option = typer.Option(
        setting.flag,
        metavar=setting.metavar,
        help=setting.help,
        rich_help_panel=setting.panel.value,
        show_default=setting.default is not None,
    )
    kind = setting.kind if setting.default is not None else setting.kind | None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=setting.default,
        annotation=Annotated[kind, option],
    )
