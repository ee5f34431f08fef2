"""Who may use the page: whoever opens it, also below a path, and no page of anybody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.harness import web
from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer
from tests.page.scenes import LABEL, refuses_to_be_left

pytestmark = pytest.mark.server

APPLICATIONS = Path(__file__).parents[1] / "asgi"


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which another server shows it."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_page_of_another_origin_gets_nothing(
    browser: Browser, two_versions: EchoServer, stranger: tuple[Path, str]
) -> None:
    folder, address = stranger
    target = f"http://{two_versions.rest}"
    (folder / "index.html").write_text(
        f'<!doctype html><title>other</title><iframe id="frame" src="{target}/"></iframe>'
    )
    browser.open(f"{address}/index.html")
    assert browser.run("return document.title") == "other"
    read = """
        const [url, init] = arguments;
        const said = (error) => `refused: ${error.name}`;
        return fetch(url, init).then((answer) => answer.text(), said);
    """
    assert browser.run(read, f"{target}/v2", {}) == "refused: TypeError"
    assert browser.run(read, f"{target}/", {}) == "refused: TypeError"
    asked = {"method": "POST", "body": '{"instances": ["x"]}'}
    path = f"{target}/v1/models/horses:predict"
    assert browser.run(read, path, asked) == "refused: TypeError"
    browser.wait(lambda: any("frame" in text.lower() for text in browser.complaints()))
    assert browser.run("return document.getElementById('frame').contentDocument") is None


def test_below_the_path_of_another_application(
    browser: Browser, tmp_path: Path, image: Path
) -> None:
    model = EchoModel(tmp_path / "horses")
    model.put(1)
    mount = json.dumps({"path": str(model.base_path), "backend": "echo"})
    command = web.uvicorn("applications:app")
    with web.running(tmp_path, *command, cwd=APPLICATIONS, env={"MOUNT": mount}) as server:
        address = f"{server.url}/ml"
        browser.wait(lambda: server.get("/ml/v2/health/ready").status_code == 200)
        browser.open(address)
        browser.text("#ask-form")
        browser.drop(image, "image/jpeg")
        assert browser.text(LABEL) == "sorrel"
        assert f"--endpoint {address} " in browser.text("#command")
        refuses_to_be_left(browser, address)

        browser.open(f"{address}/docs")
        browser.wait(lambda: browser.sees(".operation"))
        browser.click(".top nav a")
        browser.wait(lambda: browser.run("return location.href") == f"{address}/")
