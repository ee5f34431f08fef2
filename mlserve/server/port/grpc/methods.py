"""The methods that gRPC itself brings: each serves its calls with a coroutine of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mlserve.server.port.grpc.call import Call


@dataclass(frozen=True, slots=True)
class PlainMethod:
    """A method of small messages that nobody counts."""

    serve: Callable[[Call], Coroutine[Any, Any, None]]
    most_bytes: int

    def begin(self, call: Call) -> None:
        """Runs the coroutine."""
        call.begin(self.serve(call))
