"""The comparison's work as a custom handler of TorchServe: two functions, as its guide shows."""

from __future__ import annotations

from typing import Any

import work

_loaded: list[work.Classify] = []


def handle(data: list[dict[str, Any]] | None, _: Any) -> list[dict[str, Any]] | None:
    """Load the model on the first call, which has no data; then answer each request."""
    if not _loaded:
        _loaded.append(work.load())
    if data is None:
        return None
    return [work.answer(*_loaded[0](bytes(row.get("data") or row["body"]))) for row in data]
