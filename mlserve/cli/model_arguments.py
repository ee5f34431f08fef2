"""How commands name an exported model and its versions, and what a shell completes there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve.cli import completion
from mlserve.errors import MlserveError

if TYPE_CHECKING:
    from mlserve.inventory import ModelFolder

FORMS = "[BACKEND/]MODEL[@VERSION]"


def complete_model(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of models that begin so, and after an `@` those of versions."""
    return [name for name in _names(ctx, incomplete) if name.startswith(incomplete)]


def complete_target(ctx: Any, incomplete: str) -> list[str]:
    """Return what `mlserve models use` can be given: versions of the only model, and references."""
    found = _folders(ctx)
    own = [f"{v}" for v in _numbers(found[0])] if len(found) == 1 else []
    names = [*own, "latest", *_names(ctx, incomplete)]
    return [name for name in names if name.startswith(incomplete)]


def complete_compared(ctx: Any, incomplete: str) -> list[str]:
    """Return the exported models as `mlserve compare` names them, with versions after an `@`."""
    name, at, _ = incomplete.partition("@")
    folders = _folders(ctx)
    if at:
        fits = [folder for folder in folders if name in (str(folder), folder.backend)]
        names = [f"{name}@{number}" for folder in fits for number in _numbers(folder)]
    else:
        names = [*(folder.backend for folder in folders), *map(str, folders)]
    return sorted({name for name in names if name.startswith(incomplete)})


def _names(ctx: Any, incomplete: str) -> list[str]:
    name, at, _ = incomplete.partition("@")
    folders = _folders(ctx)
    if not at:
        plain = [f.model for f in folders if sum(f.model == o.model for o in folders) == 1]
        return [*plain, *map(str, folders)]
    fits = [folder for folder in folders if name in (str(folder), folder.model, folder.backend)]
    return [f"{name}@{number}" for folder in fits for number in _numbers(folder)]


def _folders(ctx: Any) -> list[ModelFolder]:
    from mlserve.inventory import model_folders
    from mlserve.store import Store

    given, model = ctx.params, ctx.params.get("model")
    one = model if isinstance(model, str) else None  # `compare` takes several
    try:
        return model_folders(Store(given.get("store")), backend=given.get("backend"), model=one)
    except (MlserveError, OSError):  # a shell shows no errors
        return []


def _numbers(folder: ModelFolder) -> list[int]:
    from mlserve.store import present_versions

    try:
        return list(present_versions(folder.base_path))
    except OSError:
        return []


BackendFilter = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Only models of this backend.",
        autocompletion=completion.backends,
    ),
]
ModelFilter = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Only the model of this name.",
        autocompletion=completion.models,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar=FORMS,
        help="The model: its name if that is unique, or BACKEND/MODEL, or BACKEND. Without a "
        "version, the pinned one or the latest. Default: the only exported model.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar=f"{FORMS}...",
        help="The models or versions. Default: all of them.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
VersionsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[BACKEND/]MODEL@VERSION...",
        help="The versions, each with the model's name or BACKEND/MODEL, or BACKEND.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PathOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of a model that is not in the store: it holds the version folders.",
    ),
]
