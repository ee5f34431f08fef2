"""What a server that follows a configuration file serves: written by it, read by commands.

The file may change at any moment, so the record of `mlserve up` cannot say it. The launcher makes
the first state, and the server replaces it with each change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve.errors import UsageError
from mlserve.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class ServerState:
    """The models as last accepted, and why the file as it is now is not in force as a whole.

    `problem` is said of the server, so it begins with a verb; it is empty if all is in force.
    """

    models: tuple[ServedModel, ...]
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`."""
        return {"models": [model.to_json() for model in self.models], "problem": self.problem}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServerState:
        """Read what `to_json` returned. Raises KeyError, TypeError, or ValueError."""
        try:
            return cls(tuple(map(ServedModel.from_json, data["models"])), str(data["problem"]))
        except UsageError as error:  # an option that this version of mlserve would refuse
            raise ValueError(error.message) from error


def state_text(models: Sequence[ServedModel], problem: str = "") -> str:
    """Return the text of the file."""
    return json.dumps(ServerState(tuple(models), problem).to_json(), indent=2) + "\n"


def replace_state(path: Path, text: str) -> None:
    """Replace the file in one step, readable by this user only. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
