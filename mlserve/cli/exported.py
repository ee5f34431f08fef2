"""The options that choose an exported model."""

from __future__ import annotations

from typing import Annotated

import typer

BackendOption = Annotated[
    str | None, typer.Option(help="The backend; default: the one with an exported model.")
]
ModelOption = Annotated[str | None, typer.Option(help="The model; default: the only exported one.")]
