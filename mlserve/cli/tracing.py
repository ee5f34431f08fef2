"""`--otlp` of commands that ask: their calls as spans, sent to a collector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from mlserve import otlp
from mlserve.cli.output import note
from mlserve.otlp import CollectorAddress

_SERVICE = "mlserve-client"

OtlpOption = Annotated[
    str | None,
    typer.Option(
        "--otlp",
        metavar="URL",
        help="Send spans of the calls to this OpenTelemetry collector: http://HOST:4318, or "
        "grpc://HOST:4317. Needs the extra `otlp`.",
        show_default=False,
    ),
]


@contextmanager
def traced(url: str | None) -> Iterator[None]:
    """Record the calls of the block, and send them at its end; None does nothing.

    A collector that takes none changes nothing but for a note. Raises UsageError for what is no
    collector's URL, and PluginError without the extra.
    """
    if url is None:
        yield
        return
    collector = CollectorAddress.of(url)
    otlp.require_sdk()
    from mlserve.otlp_sdk import ProgramTracing

    tracing = ProgramTracing(collector, _SERVICE)
    try:
        with tracing.recorded():
            yield
    finally:
        if tracing.trouble:
            note(f"warning: the spans were not sent to {url}: {tracing.trouble}")
