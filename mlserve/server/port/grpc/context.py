"""What a method may know of its call, and say beside its answer."""

from __future__ import annotations

import time

from mlserve.server.port.grpc.head import Head
from mlserve.server.port.grpc.status import Metadata


class Context:
    """One call, as the methods see it; `path` is `/<service>/<method>`."""

    __slots__ = ("_metadata", "deadline", "initial", "path", "trailing")

    def __init__(self, head: Head) -> None:
        self.path = head.path
        self.deadline = None if head.timeout is None else time.monotonic() + head.timeout
        """When the caller stops to wait, on the monotonic clock; None for never."""
        self.initial: Metadata = ()
        self.trailing: Metadata = ()
        self._metadata = head.metadata

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller sent along; values of `-bin` keys are bytes."""
        return self._metadata

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """What the answer begins with; it leaves with the first message."""
        self.initial = metadata

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """What the answer ends with."""
        self.trailing = metadata
