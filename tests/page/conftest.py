"""A browser, and servers whose page it opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlserve.testing.processes import wait_until
from tests.harness import chromium
from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer, running
from tests.page.scenes import TOKEN, faults


@pytest.fixture(scope="package")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The one browser of these tests."""
    chromium.require()
    with chromium.browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """A window of the usual size, in light. No script in it may fail."""
    window.look(width=1280)
    yield window
    assert faults(window) == []
    window.open("about:blank")


@pytest.fixture(scope="package")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server of version 1, which says sorrel, and of version 2, which says zebra."""
    folder = tmp_path_factory.mktemp("two")
    model = EchoModel(folder / "horses")
    model.put(1, label="sorrel", classes=40)
    model.put(2, label="zebra", classes=40, offset=0.5)
    with running(model, folder / "log", "--all-versions") as server:
        server.wait_ready(1)
        server.wait_ready(2)
        yield server


@pytest.fixture(scope="package")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server that asks for a token."""
    folder = tmp_path_factory.mktemp("locked")
    model = EchoModel(folder / "horses")
    model.put(1)
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with running(model, folder / "log", f"--token-file={token}") as server:
        wait_until(server.has_loaded)
        yield server


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file that the echo backend takes for an image. It is none for the browser's preview."""
    path = tmp_path / "horse's photo.jpg"
    path.write_bytes(b"\xff\xd8\xff a photo of a horse")
    return path
