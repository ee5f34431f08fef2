"""Who may use the page: whoever opens it, also below a path, and no page of anybody else."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.harness import web
from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer
from tests.page.scenes import LABEL, command_shown, opened, refuses_to_be_left

pytestmark = pytest.mark.server

APPLICATIONS = Path(__file__).parents[1] / "asgi"


@contextmanager
def listening(answering: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server of that kind, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which another server shows it."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with listening(partial(quiet, directory=str(folder))) as address:
        yield folder, address


class Stripping(BaseHTTPRequestHandler):
    """A proxy that passes on what is below `/team/it's`, without that; it adds no slash."""

    protocol_version = "HTTP/1.1"
    prefix = "/team/it's"

    def __init__(self, target: str, *how: object) -> None:
        self.target = target
        super().__init__(*how)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.pass_on()

    def do_POST(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.removeprefix(self.prefix)
        status, headers, content = 404, {}, b"<title>no such team</title>"
        if path != self.path:
            kept = {name: self.headers[name] for name in self.headers if name.lower() != "host"}
            url = f"http://{self.target}/{path.removeprefix('/')}"
            found = httpx.request(self.command, url, headers=kept, content=body)
            status, content = found.status_code, found.content
            headers = {name: value for name, value in found.headers.items() if name not in OWN}
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


OWN = ("content-length", "connection", "date", "server", "transfer-encoding")


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


def test_behind_a_proxy_that_adds_a_path(
    browser: Browser, two_versions: EchoServer, image: Path
) -> None:
    with listening(partial(Stripping, two_versions.rest)) as proxy:
        address = f"{proxy}{Stripping.prefix}"
        browser.open(address)
        browser.text("#ask-form")
        assert browser.run("return location.href") == f"{address}/"
        browser.drop(image, "image/jpeg")
        assert browser.text(LABEL) == "zebra"
        curl = ["bash", "-euc", command_shown(browser, "curl")]
        done = subprocess.run(curl, cwd=image.parent, capture_output=True, text=True, check=True)
        assert "zebra" in done.stdout
        refuses_to_be_left(browser, address)

        browser.open(f"{address}/docs#get-v2")
        browser.wait(lambda: browser.run("return document.getElementById('get-v2')?.open"))
        shown = browser.text("#get-v2 pre")
        done = subprocess.run(
            ["bash", "-euc", shown], capture_output=True, text=True, check=True, timeout=30
        )
        assert json.loads(done.stdout)["name"] == "mlserve"


def test_what_is_no_model_server(browser: Browser, two_versions: EchoServer) -> None:
    """A proxy that lets the page through, and answers the rest itself."""
    opened(browser, two_versions)
    browser.run(
        """
        window.fetch = async () => new Response("<title>Log in</title>");
        return connect().then(look);  // what the page has asked before counts no more
        """
    )
    assert "is not the answer of a model server" in browser.text("#state")
