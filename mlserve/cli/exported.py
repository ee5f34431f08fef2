"""The options that choose an exported model, and the store that it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BackendOption = Annotated[
    str | None, typer.Option(help="The backend; default: the one with an exported model.")
]
ModelOption = Annotated[str | None, typer.Option(help="The model; default: the only exported one.")]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of the exported models; default: your own, in the data folder "
        "(or MLSERVE_HOME).",
    ),
]
