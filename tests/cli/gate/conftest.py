"""What the tests of the gate share: a server, an audit, parts, and the command."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.harness.echo import PHOTO, manifest
from tests.harness.gate import to


@pytest.fixture(scope="module")
def server(start_echo: Callable[..., Any]) -> Any:
    """It gives each image the label and score that the image says itself."""
    return start_echo(manifest=manifest())


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    """`part("ok", 0.95)` writes an image that gets this answer."""
    numbers = count(1)

    def write(label: str = "ok", score: float = 0.95, into: Path = tmp_path) -> Path:
        into.mkdir(exist_ok=True, parents=True)
        path = into / f"part-{next(numbers):04}.jpg"
        whole = path.with_suffix(".tmp")
        whole.write_bytes(PHOTO + f" {path.name} says {label} {score:.4f}".encode())
        return whole.rename(path)

    return write


@pytest.fixture
def gate(cli: Any, server: Any, audit: Path) -> Callable[..., Any]:
    """Runs the command to its end."""

    def run(*args: object, **options: Any) -> Any:
        return cli("gate", *args, *to(server, audit), **options)

    return run
