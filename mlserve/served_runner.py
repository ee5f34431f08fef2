"""A running server as a Runner: the golden inputs go the way of other requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np  # noqa: TID253

from mlserve.client import Client
from mlserve.deadline import Deadline
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors


@dataclass(frozen=True, slots=True)
class ServedRunner:
    """A Runner whose calls are requests to a server, each with `timeout` seconds."""

    client: Client
    signatures: Mapping[str, Signature]
    timeout: float

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the server's answer. Raises what `Client.infer` raises."""
        due = Deadline.after(self.timeout) if deadline is None else deadline
        outputs = self.client.infer(dict(inputs), signature=signature, timeout=due)
        return {name: np.asarray(value) for name, value in outputs.items()}

    def close(self) -> None:
        """Do nothing: whoever made the client closes it."""
