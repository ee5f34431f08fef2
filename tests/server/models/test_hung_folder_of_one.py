"""A model whose folder does not answer is added to a catalog that serves others."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import Unavailable
from mlserve.server.models import versions


def test_a_model_that_is_added_is_looked_for_off_the_loop(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are served while the folder of the new one does not answer."""
    models.put("a/1")
    models.put("b/1")
    os.mkfifo(tmp_path / "pipe")
    real = versions.present_versions

    def present_versions(base_path: Path) -> tuple[int, ...]:
        if base_path.name == "b":
            (tmp_path / "pipe").read_bytes()
        return real(base_path)

    monkeypatch.setattr(versions, "present_versions", present_versions)

    async def check() -> None:
        a, b = models.source("a"), models.source("b")
        async with models.ready(a) as catalog:
            adding = asyncio.create_task(catalog.serve([a, b]))
            await models.until(lambda: "b" in catalog.models)
            assert models.answer(catalog, "a") == "a/1"
            with pytest.raises(Unavailable, match="b is loading"):
                catalog.lease("b", None)
            assert catalog.is_ready
            writer = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)
            os.close(writer)
            (tmp_path / "pipe").unlink()
            (tmp_path / "pipe").touch()
            await adding
            assert models.answer(catalog, "b") == "b/1"

    asyncio.run(check())
