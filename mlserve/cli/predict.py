"""`mlserve predict`: asks a running server what is in image files, each under a deadline."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mlserve.cli import clock
from mlserve.cli.access import (
    AccessOptions,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TokenFileOption,
)
from mlserve.cli.target import (
    ApiOption,
    BackendOption,
    EndpointOption,
    ModelOption,
    ProtocolOption,
    ServerOption,
    Target,
    VersionOption,
)

_DEFAULT_TOP_K = 5


class PredictFormat(StrEnum):
    """How the answers are printed."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Image files; a folder stands for its *.jpg, *.jpeg and *.png, sorted; - is "
            "standard input.",
            show_default=False,
        ),
    ],
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="The whole time allowed: from the start of the command to the answer. With "
            "several files each has this time, the first one's counts from the start.",
        ),
    ] = 5.0,
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
    max_attempts: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="How often to ask a server that is not ready, has no room or goes away, all "
            "within the timeout; 1: never again.",
        ),
    ] = 5,
    max_answer_bytes: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="The largest answer that is read, in bytes."),
    ] = 64 * 2**20,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help=f"Print the K best labels with scores. Default: text prints the label alone, "
            f"json the best {_DEFAULT_TOP_K}.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        PredictFormat,
        typer.Option(
            "--output",
            help="text: the label, for several files `file<TAB>label` a line (with "
            "--top-k `file<TAB>score<TAB>index<TAB>label`); json: one object, "
            'for several files {"predictions": [...]}; jsonl: one object a line, as answers come.',
        ),
    ] = PredictFormat.TEXT,
) -> None:
    """Ask a server what is in an image, and print the label.

    One bad file does not stop the others: it is named, and the exit code is
    that of the first error.

    Exit codes: 0 answered, 2 bad call or image, 5 no server or not ready,
    6 the server failed, 7 overloaded, 124 no answer in time.

    Example: label=$(mlserve predict horse.jpg --timeout 5)
    """
    from mlserve.cli.answering import Questioner
    from mlserve.cli.inputs import gather
    from mlserve.cli.printing import printer
    from mlserve.client import Retries
    from mlserve.deadline import Deadline

    deadline = Deadline.after(timeout, since=clock.command_start())
    inputs = gather(files, deadline)
    access = AccessOptions(token_file, tls_ca, tls_cert, tls_key)
    target = Target(endpoint, backend, model, version, protocol, api, access, server)
    asked = target.find(deadline)
    show = printer(output.value, is_batch=inputs.is_batch, has_scores=top_k is not None)
    retries = Retries(max_attempts)
    with asked.connect(retries=retries, max_answer_bytes=max_answer_bytes) as client:
        questioner = Questioner(client, show, top_k=top_k, is_random=asked.has_random_weights)
        questioner.ask_all(inputs, deadline)
    if questioner.exit_code:
        raise typer.Exit(questioner.exit_code)
