"""A mounted server in the ASGI servers that people run: what holds there, and what does not."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.testing.processes import wait_until
from tests.harness.echo import PHOTO, EchoModel
from tests.harness.raw_http2 import DATA, END_STREAM, PING, Heard, RawHttp2, frame
from tests.harness.requests import hang_up
from tests.harness.server import MODEL
from tests.harness.web import WebServer, hypercorn, running, uvicorn

pytestmark = pytest.mark.server

HERE = Path(__file__).parent
PREDICT = f"/v1/models/{MODEL}:predict"
SLOW = {"signature_name": "slow", "inputs": [0.8]}
SERVERS = pytest.mark.parametrize("command", [uvicorn, hypercorn], ids=["uvicorn", "hypercorn"])
TOKEN = "a-secret-of-this-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

Run = Callable[..., WebServer]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`run(argv, echo={}, **options)` runs an application of `applications` with a model `m`.

    `echo` is what the model's version 1 answers, `options` are those of `mount`.
    """
    with ExitStack() as stack:
        model = EchoModel(tmp_path / MODEL)

        def start(
            argv: tuple[str, ...], echo: dict[str, Any] | None = None, **options: Any
        ) -> WebServer:
            model.put(1, **(echo or {}))
            mount = json.dumps({"path": str(model.base_path), "backend": "echo", **options})
            env = {"MOUNT": mount}
            return stack.enter_context(running(tmp_path, *argv, cwd=HERE, env=env))

        yield start


@SERVERS
def test_without_a_lifespan_the_first_request_loads_and_gets_503(
    run: Run, command: Callable[..., tuple[str, ...]]
) -> None:
    web = run(command("applications:bare"), {"load_delay": 0.5})

    first = web.post("/ml" + PREDICT)
    assert first.status_code == 503, first.text
    assert "loading" in first.json()["error"]
    assert web.get("/ml/v2/health/live").status_code == 200
    assert web.get("/ml/v2/health/ready").status_code == 503
    wait_until(lambda: web.get("/ml/v2/health/ready").status_code == 200)
    assert web.post("/ml" + PREDICT).json() == {"predictions": ["sorrel"]}


def test_the_application_starts_once_its_models_are_loaded_or_not_at_all(run: Run) -> None:
    web = run(uvicorn("applications:app"), {"fail_load": "the file is torn"})

    assert web.process.wait(60) == 3  # uvicorn's code for a start that failed
    assert "ModelLoadFailed: the file is torn" in web.log()
    assert "hint: write another echo.json" in web.log()


def test_each_worker_has_models_of_its_own(run: Run) -> None:
    web = run(uvicorn("applications:app", "--workers", "2"))
    wait_until(lambda: web.log().count("Application startup complete") == 2)

    def ask(_: object) -> int:
        assert web.post("/direct").json() == {"label": "sorrel", "version": 1}
        assert web.get("/blocking").json() == {"label": "sorrel", "version": 1}
        assert web.post("/ml" + PREDICT).json() == {"predictions": ["sorrel"]}
        return int(web.get("/process").json())

    with ThreadPoolExecutor(8) as threads:
        found = wait_until(lambda: len(set(threads.map(ask, range(16)))) == 2 or None)
    assert found
    assert web.process.poll() is None


@SERVERS
def test_a_stop_finishes_the_requests_in_flight(
    run: Run, command: Callable[..., tuple[str, ...]]
) -> None:
    web = run(command("applications:app"))

    with ThreadPoolExecutor(1) as thread:
        body = {**SLOW, "inputs": [3.0]}  # so long that it is seen to run
        slow = thread.submit(httpx.post, web.url + "/ml" + PREDICT, json=body, timeout=20)
        wait_until(lambda: web.has("mlserve_requests_running 1.0"))
        web.process.terminate()
        assert slow.result().status_code == 200
    web.process.wait(60)
    assert "Traceback" not in web.log()


@SERVERS
def test_limits_tokens_and_clients_that_leave(
    run: Run, tmp_path: Path, command: Callable[..., tuple[str, ...]]
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    web = run(command("applications:serving"), token_file=str(token), max_request_bytes=1000)

    assert web.get("/v2/health/ready").status_code == 200
    assert web.get("/v2").status_code == 401
    described = web.get("/v2", headers=BEARER).json()["parameters"]
    assert described["max_request_bytes"] == 1000
    assert not {"max_connections", "header_timeout"} & described.keys()

    _is_refused_before_its_body(web, "HTTP/1.1 401")
    _is_refused_before_its_body(web, "HTTP/1.1 413", f"Authorization: Bearer {TOKEN}\r\n")

    late = httpx.post(
        web.url + PREDICT, json=SLOW, headers={**BEARER, "X-Request-Timeout-Ms": "100"}
    )
    assert late.status_code == 504, late.text

    def shows(line: str) -> bool:
        return line in web.get("/metrics", headers=BEARER).text

    wait_until(lambda: shows("mlserve_requests_running 0.0"))
    seen = {**SLOW, "inputs": [3.0]}  # so long that it is seen to run
    runs = lambda: shows("mlserve_requests_running 1.0")  # noqa: E731
    hang_up(web.url + PREDICT, seen, once=runs, headers=BEARER)
    wait_until(lambda: shows('mlserve_work_total{outcome="gone"} 1.0'))


@SERVERS
def test_a_client_that_leaves_while_it_waits_frees_its_place(
    run: Run, command: Callable[..., tuple[str, ...]]
) -> None:
    web = run(command("applications:serving"), threads=1)
    wait_until(lambda: web.get("/v2/health/ready").status_code == 200)
    address = httpx.URL(web.url)
    hold = json.dumps({"signature_name": "slow", "inputs": [600]})
    ask = json.dumps({"inputs": ["x"]})
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 600000\r\n"
    with ExitStack() as clients:

        def send(body: str) -> socket.socket:
            where = address.host, address.port or 0
            client = clients.enter_context(socket.create_connection(where, timeout=20))
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            return client

        send(hold)
        wait_until(lambda: web.has("mlserve_requests_running 1.0", ""))
        waiting = send(ask)
        wait_until(lambda: web.has("mlserve_requests_waiting 1.0", ""))
        waiting.close()
        wait_until(lambda: web.has('mlserve_refused_total{reason="gone"} 1.0', ""))
        assert web.has("mlserve_requests_waiting 0.0", "")
        assert web.has("mlserve_requests_running 1.0", "")
        web.process.kill()  # a stop would wait for the call that holds the thread


def _is_refused_before_its_body(web: WebServer, status: str, header: str = "") -> None:
    """Assert that a request is answered while its body of 10 MB has not been sent."""
    address = httpx.URL(web.url)
    with socket.create_connection((address.host, address.port or 0), timeout=20) as client:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 10000000\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(100).decode().startswith(status)


def test_over_http_2(run: Run, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    web = run(hypercorn("applications:app"), token_file=str(token))

    with httpx.Client(http1=False, http2=True, base_url=web.url, timeout=20) as client:
        refused = client.post("/ml" + PREDICT, content=PHOTO)
        assert (refused.http_version, refused.status_code) == ("HTTP/2", 401)
        assert "connection" not in refused.headers
        answer = client.post("/ml" + PREDICT, content=PHOTO, headers=BEARER)
        assert answer.json() == {"predictions": ["sorrel"]}


def test_over_http_2_a_body_that_comes_after_the_refusal_harms_no_other_call(
    run: Run, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    web = run(hypercorn("applications:app"), token_file=str(token))
    photo = {"content-type": "application/octet-stream", "content-length": str(len(PHOTO))}

    with RawHttp2(web.url.removeprefix("http://")) as client:
        client.call(1, "/ml" + PREDICT, tuple(photo.items()))
        refused = client.streams.setdefault(1, Heard())
        client.listen(lambda: bool(refused.data))
        assert refused.headers[":status"] == "401"
        for sent in range(len(PHOTO)):  # one byte a round trip, so that all come after the answer
            client.say(frame(DATA, 0, 1, PHOTO[sent : sent + 1]) + frame(PING, 0, 0, bytes(8)))
            client.listen(lambda sent=sent: len(client.pings) > sent)
        client.say(frame(DATA, END_STREAM, 1))
        assert client.answer(1).has_ended

        client.call(
            3,
            "/ml" + PREDICT,
            (*photo.items(), ("authorization", BEARER["Authorization"])),
            data=PHOTO,
        )
        assert json.loads(client.answer(3).data) == {"predictions": ["sorrel"]}


def test_below_a_proxy_that_strips_a_prefix(run: Run) -> None:
    web = run(uvicorn("applications:app", "--root-path", "/api"))

    assert web.post("/ml" + PREDICT).json() == {"predictions": ["sorrel"]}
    assert web.get("/ml/openapi.json").json()["servers"] == [{"url": "/api/ml"}]
    strange = web.get("/ml/v1/models/%2Fml%2Fv2:predict")
    assert strange.status_code == 405, strange.text
