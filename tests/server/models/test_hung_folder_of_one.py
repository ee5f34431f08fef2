"""A model whose folder does not answer is added to a server that serves others."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import Unavailable
from mlserve.server.models import folders


def test_a_model_that_is_added_is_looked_for_off_the_loop(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are served while the folder of the new one does not answer."""
    models.put("a/1")
    models.put("b/1")
    os.mkfifo(tmp_path / "pipe")
    real = folders.present_versions

    def present_versions(base_path: Path) -> tuple[int, ...]:
        if base_path.name == "b":
            (tmp_path / "pipe").read_bytes()
        return real(base_path)

    monkeypatch.setattr(folders, "present_versions", present_versions)

    async def check() -> None:
        a, b = models.source("a"), models.source("b")
        async with models.ready(a) as served:
            adding = asyncio.create_task(served.serve([a, b]))
            await models.until(lambda: "b" in served.names)
            assert models.answer(served, "a") == "a/1"
            with pytest.raises(Unavailable, match="b is loading"):
                served.lease("b", None)
            assert served.is_ready
            writer = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)
            os.close(writer)
            (tmp_path / "pipe").unlink()
            (tmp_path / "pipe").touch()
            await adding
            assert models.answer(served, "b") == "b/1"

    asyncio.run(check())
