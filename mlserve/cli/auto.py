"""`mlserve up --auto`: choose the fastest artifact whose certificate holds, and say why."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve.cli.output import OutputFormat, ProgressLine, note, print_table
from mlserve.errors import UsageError
from mlserve.options import flag_of
from mlserve.settings import AUTO, EMBEDDED

if TYPE_CHECKING:
    from mlserve.load_options import LoadOptions
    from mlserve.served_model import ServedModel

_ITS_OWN = ("name", "version", "path", "image", "docker_option", "ladder")
"""Parameters that say themselves what to serve."""


def require_auto(given: Collection[str], launcher: str) -> None:
    """Raise UsageError for what --auto leaves no choice of."""
    for name in _ITS_OWN:
        if name in given:
            shown = "the name of a server" if name == "name" else flag_of(name)
            raise UsageError(
                f"--auto chooses what to serve, and {shown} does too", hint="leave one of them out"
            )
    if launcher not in (AUTO, EMBEDDED):
        raise UsageError(
            f"--auto measures mlserve's own server, and --launcher {launcher} starts another",
            hint="leave --launcher out",
        )


def choose_fastest(
    model: str | None,
    backend: str | None,
    store: Path | None,
    options: LoadOptions,
    output: OutputFormat,
) -> tuple[ServedModel, dict[str, Any]]:
    """Return what to serve, and what JSON says of the choice; as text, print the table.

    A server of the model that runs already is kept. Raises ModelLoadFailed if no certificate holds.
    """
    from mlserve.tune.fastest import HEADER, find_fastest, running_artifact

    running = running_artifact(model, backend, store)
    if running is not None:
        note(
            f"{running.model} is served already, by {running.backend}: nothing is measured beside "
            "it (mlserve down, then --auto chooses again)"
        )
        return running, {"auto": None}
    lines: list[ProgressLine] = []

    def show(done: int, total: int, what: str) -> None:
        lines.append(ProgressLine(total))
        lines[-1].draw(done, what)

    try:
        found = find_fastest(model, backend, store, options, show)
    finally:
        for line in lines[-1:]:
            line.clear()
    if output is not OutputFormat.JSON:
        print_table(HEADER, found.rows())
    return found.require_winner(), {"auto": found.to_json()}
