"""The web applications of `examples/web`, each run by a real server and asked over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlserve import Client
from mlserve.testing.processes import wait_until
from tests.conftest import Export, StartEcho
from tests.harness.echo import PHOTO
from tests.harness.web import WebServer, flask, hypercorn, running, uvicorn

pytestmark = pytest.mark.server

MODEL = "efficientnet_lite0"
MOUNTED = f"/ml/v1/models/{MODEL}:predict"
BRIEF = {"X-Request-Timeout-Ms": "900"}
CLIENTS = pytest.mark.parametrize(
    "argv", [uvicorn("fastapi_client:app"), flask("flask_client")], ids=["fastapi", "flask"]
)
DJANGO = "django_site.asgi:application"
DJANGOS = pytest.mark.parametrize(
    "argv", [uvicorn(DJANGO), hypercorn(DJANGO)], ids=["uvicorn", "hypercorn"]
)

Run = Callable[..., WebServer]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`run(*argv, **env)` starts an application of `examples/web`."""
    with ExitStack() as stack:
        yield lambda *argv, **env: stack.enter_context(running(tmp_path, *argv, env=env))


@CLIENTS
def test_a_handler_asks_a_server(run: Run, echo: WebServer, argv: tuple[str, ...]) -> None:
    web = run(*argv, MODEL_SERVER=echo.endpoint("grpc"))

    answer = web.post("/inspect")
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "sorrel"
    assert answer.json()["scores"]["sorrel"] == 0.5

    bad = web.post("/inspect", b"bad")
    assert bad.status_code in (400, 415), bad.text
    assert "not a JPEG or PNG" in bad.json()["error"]

    wrong = web.post("/inspect", headers={"X-Request-Timeout-Ms": "soon"})
    assert wrong.status_code in (400, 422), wrong.text


@CLIENTS
def test_a_handler_answers_in_time_whatever_the_server_does(
    run: Run, start_echo: StartEcho, argv: tuple[str, ...]
) -> None:
    server = start_echo("--threads=1", "--max-queue=0", delay=2.5)
    web = run(*argv, MODEL_SERVER=f"http://{server.rest}")

    late = web.post("/inspect", headers=BRIEF)
    assert late.status_code == 504, late.text
    assert late.elapsed.total_seconds() < 2.4
    assert "within 0.9 s" in late.json()["error"]

    with Client(server.grpc) as client, ThreadPoolExecutor(1) as thread:
        wait_until(lambda: _running(client) == 0)
        thread.submit(client.predict, PHOTO, timeout=20)
        wait_until(lambda: _running(client) == 1)
        refused = web.post("/inspect", headers=BRIEF)
        assert refused.status_code == 429, refused.text
        assert int(refused.headers["Retry-After"]) >= 1
        assert "the queue is full" in refused.json()["error"]

    server.process.kill()
    server.process.wait()
    gone = web.post("/inspect", headers=BRIEF)
    assert gone.status_code == 503, gone.text


def _running(client: Client) -> int:
    load = client.load()
    assert load is not None
    return load.running


def test_fastapi_with_the_server_mounted(run: Run, export: Export) -> None:
    export(MODEL, delay=0.2)
    web = run(*uvicorn("fastapi_mounted:app"))

    assert web.post("/inspect").json()["label"] == "sorrel"
    assert web.post(MOUNTED).json() == {"predictions": ["sorrel"]}
    with Client(f"{web.url}/ml") as client:
        assert client.predict(PHOTO).label == "sorrel"

    late = web.post("/inspect", headers={"X-Request-Timeout-Ms": "50"})
    assert late.status_code == 504, late.text
    with ThreadPoolExecutor(70) as threads:
        answers = list(threads.map(web.post, ["/inspect"] * 70))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 429}, statuses
    assert statuses[429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1

    assert web.get("/ml/openapi.json").json()["servers"] == [{"url": "/ml"}]
    assert web.get("/openapi.json").json()["paths"].keys() == {"/inspect"}

    web.process.terminate()
    web.process.wait(60)  # uvicorn ends by the same signal once it has shut down
    assert "Application shutdown complete" in web.log()


def test_starlette_with_a_lifespan_of_its_own(run: Run, export: Export) -> None:
    export(MODEL)
    web = run(*uvicorn("starlette_mounted:app"))

    assert web.get("/health").json() == {"ready": True}
    assert web.post(MOUNTED).json() == {"predictions": ["sorrel"]}


@DJANGOS
def test_django_with_the_server_mounted(run: Run, export: Export, argv: tuple[str, ...]) -> None:
    export(MODEL)
    web = run(*argv)

    assert web.post("/inspect").json() == {"label": "sorrel"}
    assert web.post("/inspect", b"bad").status_code == 415
    assert web.get("/inspect").status_code == 405
    assert web.get("/nothing").status_code == 404
    assert web.post(MOUNTED).json() == {"predictions": ["sorrel"]}
    wait_until(lambda: web.has("mlserve_ready 1.0"))
