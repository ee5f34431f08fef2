"""The options that select the server which `predict`, `status` and `metadata` ask, and how.

Each is a field of `ServerChoice`: a command with a parameter of that type has them all
(`mlserve.cli.arguments.with_fields`).
"""

from __future__ import annotations

import inspect
import os
import warnings
from copy import copy
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from mlserve.background import run_within
from mlserve.cli import completion
from mlserve.cli.arguments import Command, fields_of
from mlserve.cli.output import note
from mlserve.client import Client, Tls
from mlserve.client.endpoint import Api, ConnectionOptions, PriorityName, ProtocolName
from mlserve.credentials import TOKEN_VARIABLE, read_token
from mlserve.errors import UsageError

if TYPE_CHECKING:
    from mlserve.deadline import Deadline
    from mlserve.launch.records import ServerRecord
    from mlserve.served_model import ServedModel

_ACCESS = "Access"
TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="The total time allowed, in seconds, from the start of the command.",
    ),
]
MaxAttemptsOption = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="The most times to ask a server that is not ready, is overloaded or goes away, all "
        "within the timeout. 1 asks once.",
    ),
]
PriorityOption = Annotated[
    PriorityName | None,
    typer.Option(
        help="How important it is: under overload, an mlserve server refuses sheddable calls "
        "first, and critical ones last. Default: default.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """The server to ask, and credentials for it: one option of the command for each field."""

    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|URL",
            help="The server to ask: host:port (gRPC) or http://host:port (REST); with TLS, "
            "grpcs:// or https://. Default: the running server that `mlserve up` started.",
        ),
    ] = None
    server: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ask the running server of this name, as `mlserve ps` lists it. Not with "
            "--endpoint.",
            autocompletion=completion.servers,
        ),
    ] = None
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ask the running server that has a model of this backend. Not with --endpoint.",
            autocompletion=completion.backends,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model to ask. Default: the only one that the server serves.",
            autocompletion=completion.models,
        ),
    ] = None
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="The version to ask. Default: the server's choice.",
            autocompletion=completion.versions,
        ),
    ] = None
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(help="The transport. Default: what the endpoint's URL says, else gRPC."),
    ] = None
    api: Annotated[
        Api | None,
        typer.Option(
            help="The API: tfs is TensorFlow Serving's, version 1; oip is the Open Inference "
            "Protocol, version 2 (Triton, KServe, MLServer); torchserve is TorchServe's. Default: "
            "what the server turns out to speak.",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_ACCESS,
            help="File with the server's token. Default: the running server's own, else the token "
            f"in {TOKEN_VARIABLE}.",
        ),
    ] = None
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_ACCESS,
            help="PEM file with the authority (CA) that signed the server's certificate, or with "
            "the certificate itself. Default: the running server's own, else those the system "
            "trusts.",
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_ACCESS,
            help="PEM file with the client certificate, for a server that asks for one.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_ACCESS,
            help="PEM file with the private key of the client certificate.",
        ),
    ] = None

    def find(self, deadline: Deadline) -> FoundServer:
        """Return the server that the options select, and the model.

        Raises Unavailable if none runs, DeadlineExceeded if the file system does not answer, and
        UsageError if several servers or several models of one match, for a bad file, or if
        --endpoint is combined with options that select among the running ones.
        """
        if self.endpoint is not None:
            return self._find_endpoint(self.endpoint, deadline)
        record, models = self._find_running(deadline)
        if len(models) > 1:
            raise UsageError(
                f"{record.name} serves {len(models)} models: "
                + ", ".join(model.model for model in models),
                hint=f"name one with --model, for example: --model {models[0].model}",
            )
        return self._found(record, models[0], deadline)

    def find_each(self, deadline: Deadline) -> list[FoundServer]:
        """Return the server that the options select, once for each model that they leave open.

        Raises what `find` raises, but not for several models.
        """
        if self.endpoint is not None:
            return [self._find_endpoint(self.endpoint, deadline)]
        record, models = self._find_running(deadline)
        return [self._found(record, model, deadline) for model in models]

    def _find_endpoint(self, endpoint: str, deadline: Deadline) -> FoundServer:
        if self.backend is not None or self.server is not None:
            option = "--backend" if self.server is None else "--server"
            raise UsageError(
                f"{option} chooses among running servers and --endpoint names one",
                hint="give only one of the two",
            )
        options = self._options(self.model, self._token(None, deadline), self._tls())
        return FoundServer(endpoint, self.protocol, options)

    def _find_running(self, deadline: Deadline) -> tuple[ServerRecord, list[ServedModel]]:
        """Return the record of the running server, and those of its models that fit."""
        from mlserve.launch.records import models_of, read_records, select

        doing = "looking for the running server"
        chosen = partial(select, backend=self.backend, model=self.model, name=self.server)
        records = run_within(deadline, doing, read_records)
        try:
            record = chosen(records)
        except UsageError:  # several fit: is it one, without those that have ended?
            from mlserve.launch.running import among_running

            record = chosen(run_within(deadline, doing, lambda: among_running(records)))
        record.require_staying()
        return record, models_of(record, self.backend, self.model)

    def _found(self, record: ServerRecord, model: ServedModel, deadline: Deadline) -> FoundServer:
        endpoint = record.rest_endpoint if self.protocol == "rest" else record.grpc_endpoint
        token = self._token(record.serving.settings.token_file, deadline)
        options = self._options(model.model, token, self._tls_beside(record, deadline))
        return FoundServer(
            endpoint,
            self.protocol,
            options,
            model.has_random_weights,
            record.refusal,
            record.rest_endpoint if record.traits.has_replicas else None,
        )

    def _options(self, model: str | None, token: str | None, tls: Tls | None) -> ConnectionOptions:
        return {
            "model": model,
            "version": self.version,
            "api": self.api,
            "token": token,
            "tls": tls,
        }

    def _token(self, recorded: Path | None, deadline: Deadline) -> str | None:
        path = self.token_file or recorded
        if path is None:
            return os.environ.get(TOKEN_VARIABLE)
        return run_within(deadline, f"reading {path}", lambda: read_token(path)).decode()

    def _tls(self) -> Tls | None:
        if self.tls_ca is None and self.tls_cert is None and self.tls_key is None:
            return None
        return Tls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)

    def _tls_beside(self, record: ServerRecord, deadline: Deadline) -> Tls | None:
        """Return the TLS files for a server of `mlserve up`; options take precedence."""
        recorded, given = _recorded_tls(record, deadline), self._tls()
        if recorded is None or given is None:
            return recorded
        if given.ca is not None:
            return given
        return replace(recorded, cert=given.cert, key=given.key)


def _recorded_tls(record: ServerRecord, deadline: Deadline) -> Tls | None:
    if not record.serving.settings.speaks_tls:
        return None
    from mlserve.launch.access import tls_of

    doing = f"reading {record.serving.settings.tls_cert}"
    return run_within(deadline, doing, lambda: tls_of(record))


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server to ask, and how.

    `has_random_weights`: the model is known to have random weights. `refusal` says why the
    file that the server follows is not in force. `replicas_at` is where a running server of
    several replicas tells of them; None for any other, and for --endpoint.
    """

    endpoint: str
    protocol: ProtocolName | None
    options: ConnectionOptions
    has_random_weights: bool = False
    refusal: str = ""
    replicas_at: str | None = None

    def connect(self, **more: Unpack[ConnectionOptions]) -> Client:
        """Return a client of the server; sends nothing yet.

        Warns if a token would cross a network unencrypted. Raises UsageError for a bad endpoint.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options: ConnectionOptions = {**self.options, **more}
            client = Client(self.endpoint, protocol=self.protocol, **options)
        for warning in caught:
            note(f"warning: {warning.message}")
        return client


def address_json(client: Client) -> dict[str, str | None]:
    """Return a client's endpoint and API as data."""
    endpoint = client.endpoint
    return {"endpoint": str(endpoint), "protocol": endpoint.protocol, "api": client.api}


def with_server_choices(command: Command) -> Command:
    """Decorate a command with a parameter `choices`: the options of several ServerChoices."""

    @wraps(command)
    def with_choices(**values: Any) -> None:
        given = {option.name: values.pop(option.name) for option in fields_of(ServerChoice)}
        servers = [(name, value) for name in _SERVERS for value in given.pop(name) or ()]
        choices = [ServerChoice(**{name: value}, **given) for name, value in servers]
        command(choices=choices or [ServerChoice(**given)], **values)

    signature = inspect.signature(command, eval_str=True)
    options = list(map(_repeated, fields_of(ServerChoice)))
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += options if parameter.name == "choices" else [parameter]
    with_choices.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return with_choices  # type: ignore[return-value]


_SERVERS = ("endpoint", "server", "backend")
"""The options that name a server, of which a command for several takes any number."""


def _repeated(choice: inspect.Parameter) -> inspect.Parameter:
    """Return the option, to be given several times if it names a server."""
    if choice.name not in _SERVERS:
        return choice
    option = copy(choice.annotation.__metadata__[0])
    option.help = f"{option.help.split(' Not with ')[0]} Repeat it for several."
    return choice.replace(annotation=Annotated[list[str] | None, option])
