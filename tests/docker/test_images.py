"""The images of docker/: built, run the way their documents say, asked, stopped, broken."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import mlserve
from mlserve.client import Client
from mlserve.testing.processes import wait_until
from tests.harness.engine import HARDENED, Container, Engine, Run, containers

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.timeout(1800)]

TREE = Path(__file__).parents[2]
HORSE = TREE / "examples" / "horse.jpg"
MODEL = "efficientnet_lite0"
IMAGES = ("onnxruntime", "embedded", "tfserving")
EACH_SERVER = pytest.mark.parametrize(
    "image", ["onnxruntime", "tfserving"], indirect=True, scope="module"
)
"""For what has nothing to do with the runtime: `embedded` runs the same server as `onnxruntime`."""
IDLE_SECONDS = 2.0
"""What `docker stop` may take when nothing is asked: issue 5."""
TRIES = 3
"""A server that waits for something does so each time; a machine that is busy does not."""


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    """Each of the images in turn."""
    name: str = request.getfixturevalue(f"{request.param}_image")
    return name


@pytest.fixture(scope="module")
def server(engine: Engine, image: str) -> Iterator[Container]:
    """A healthy container with no more rights than it needs."""
    with containers(engine) as start:
        container = start(image, MODEL, options=HARDENED)
        container.wait_healthy()
        yield container


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_answers(server: Container, protocol: str) -> None:
    with server.client(protocol) as client:
        assert client.predict(HORSE, timeout=30).label == "sorrel"


def test_runs_as_a_user_without_rights(server: Container) -> None:
    assert server.engine("exec", server.id, "id", "-u") == "10001"
    assert server.engine.inspect(server.id)["HostConfig"]["ReadonlyRootfs"] is True


def test_the_server_is_the_first_process(server: Container) -> None:
    command = server.engine("exec", server.id, "cat", "/proc/1/cmdline")
    assert re.search(r"mlserve\.server|tensorflow_model_server", command)


def test_the_health_check_fails_while_nothing_listens(engine: Engine, image: str) -> None:
    check = engine.inspect(image)["Config"]["Healthcheck"]["Test"][1:]
    away = ("--env", "REST_API_PORT=1", "--entrypoint", check[0])
    done = engine.attempt("run", "--rm", *away, image, *check[1:])
    assert done.returncode == 1, done


def test_labels(engine: Engine, image: str) -> None:
    labels = engine.inspect(image)["Config"]["Labels"]
    backend = "onnxruntime" if image.endswith("onnxruntime") else "tfserving"
    kept = {key.removeprefix("org.opencontainers.image."): text for key, text in labels.items()}
    assert kept.pop("title").startswith("mlserve ")
    assert kept.pop("description")
    assert kept == {
        "version": mlserve.__version__,
        "revision": "0123abc",
        "source": "",
        "licenses": "Apache-2.0",
        "mlserve.backend": backend,
        "mlserve.model": MODEL,
        "mlserve.version": "1",
    }


@EACH_SERVER
def test_stops_at_once_when_idle_and_starts_again(server: Container) -> None:
    took = IDLE_SECONDS
    for _ in range(TRIES):
        begin = time.monotonic()
        server.engine("stop", server.id)
        took = time.monotonic() - begin
        assert server.state["ExitCode"] == 0, server.log()
        _start_again(server)
        if took < IDLE_SECONDS:
            break
    assert took < IDLE_SECONDS, server.log()


@EACH_SERVER
def test_a_request_in_flight_is_answered_before_it_stops(server: Container) -> None:
    process = psutil.Process(server.state["Pid"])
    before = _cpu_seconds(process)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(_ask_for_many, server.endpoint("rest"))
        wait_until(lambda: _cpu_seconds(process) > before + 0.2 or answer.done())
        assert not answer.done(), answer.result()
        server.engine("stop", "--time", "60", server.id)
        assert answer.result() == ["sorrel"] * MANY
    assert server.state["ExitCode"] == 0, server.log()
    _start_again(server)


def _start_again(server: Container) -> None:
    server.engine("start", server.id)
    server.wait_healthy()
    with server.client() as client:
        assert client.predict(HORSE, timeout=30).label == "sorrel"


MANY = 64


def _ask_for_many(endpoint: str) -> Any:
    image = base64.b64encode(HORSE.read_bytes()).decode()
    body = {"inputs": {"image": [image] * MANY}}
    answer = httpx.post(f"{endpoint}/v1/models/{MODEL}:predict", json=body, timeout=60)
    return answer.json()["outputs"]


def _cpu_seconds(process: psutil.Process) -> float:
    return float(process.cpu_times().user)


@EACH_SERVER
def test_too_little_memory_is_a_clear_state(run: Run, image: str) -> None:
    server = run(image, MODEL, options=("--memory", "48m", "--memory-swap", "48m"))
    assert server.wait_ended() == 137, server.log()
    assert server.state["OOMKilled"] is True


@EACH_SERVER
def test_a_broken_model_ends_the_container_and_is_named(
    run: Run, image: str, engine: Engine, tmp_path: Path
) -> None:
    _copy_out(engine, image, tmp_path / "models")
    for file in (tmp_path / "models").rglob("*"):
        if file.name in {"saved_model.pb", "model.onnx"}:
            file.write_bytes(b"no model")
    mount = ("--volume", f"{tmp_path}/models:/models:ro")
    server = run(image, MODEL, options=(*HARDENED, *mount))
    assert server.wait_ended() not in {0, 137}, server.log()
    assert re.search(rf"version 1 of {MODEL}|version: 1", server.log()), server.log()


@EACH_SERVER
def test_no_model_at_all_ends_the_container_and_says_where_it_looked(run: Run, image: str) -> None:
    server = run(image, MODEL, options=("--env", "MODEL_NAME=absent"))
    assert server.wait_ended() not in {0, 137}
    assert "/models/absent" in server.log()
    assert "hint: " in server.log()


def _copy_out(engine: Engine, image: str, to: Path) -> None:
    identity = engine("create", image)
    try:
        engine("cp", f"{identity}:/models", str(to))
    finally:
        engine("rm", identity)


def test_arguments_are_options_of_the_embedded_server(run: Run, onnxruntime_image: str) -> None:
    server = run(onnxruntime_image, MODEL, "--grpc-port", "9500", options=HARDENED)
    server.wait_healthy()
    assert "listening grpc=0.0.0.0:9500 " in server.log()


def test_there_is_no_tensorflow_beside_onnx_runtime(engine: Engine, onnxruntime_image: str) -> None:
    run = ("run", "--rm", "--entrypoint", "python", onnxruntime_image)
    installed = engine(*run, "-m", "pip", "list", "--format=freeze").lower()
    assert "onnxruntime==" in installed
    assert not re.search(r"tensorflow|keras|tf2onnx", installed)
    found = "import importlib.util as u; print(u.find_spec('tensorflow'))"
    assert engine(*run, "-c", found) == "None"


def test_tensorflow_serving_gets_its_flags(run: Run, tfserving_image: str) -> None:
    env = ("--env", "PORT=9500", "--env", "REST_API_PORT=9501", "--env", "ENABLE_BATCHING=true")
    server = run(tfserving_image, MODEL, "--rest_api_timeout_in_ms=7", options=(*HARDENED, *env))
    server.wait_healthy()
    argv = server.engine("exec", server.id, "cat", "/proc/1/cmdline").split("\0")
    assert {"--port=9500", "--rest_api_port=9501", "--enable_batching=true"} <= {*argv}
    assert "--monitoring_config_file=/etc/mlserve/monitoring.config" in argv
    assert argv[-2] == "--rest_api_timeout_in_ms=7"


def test_a_switch_that_is_neither_on_nor_off_is_refused(run: Run, tfserving_image: str) -> None:
    server = run(tfserving_image, MODEL, options=("--env", "ENABLE_BATCHING=maybe"))
    assert server.wait_ended() == 2
    assert "error: ENABLE_BATCHING is maybe" in server.log()


def test_compose_runs_both_side_by_side(
    engine: Engine, onnxruntime_image: str, tfserving_image: str
) -> None:
    images = {"ONNXRUNTIME_IMAGE": onnxruntime_image, "TFSERVING_IMAGE": tfserving_image}
    ports = {f"{name}_PORT": "0" for name in _COMPOSE_PORTS}
    env = engine.env | images | ports
    try:
        _compose(env, "up", "--no-build", "--detach", "--wait")
        for service in ("tfserving", "onnxruntime"):
            address = _compose(env, "port", service, "8500").strip()
            with Client(address, model=MODEL) as client:
                assert client.predict(HORSE, timeout=30).label == "sorrel"
    finally:
        _compose(env, "down", "--timeout", "5")


_COMPOSE_PORTS = ("TFSERVING_GRPC", "TFSERVING_REST", "ONNXRUNTIME_GRPC", "ONNXRUNTIME_REST")


def _compose(env: dict[str, str], *args: str) -> str:
    command = str(Path(sys.executable).with_name("docker-compose"))
    file = TREE / "docker" / "compose.yaml"
    argv = [command, "--project-name", "mlserve-test", "--file", str(file), *args]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_change_of_the_server_neither_exports_again_nor_installs_again(
    engine: Engine, onnxruntime_image: str, built_with: dict[str, str], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    skipped = shutil.ignore_patterns(".*", "tests", "__pycache__")
    shutil.copytree(TREE, tree, ignore=skipped)
    shutil.copy(TREE / ".dockerignore", tree)
    shutil.copy(TREE / "docker" / "weights" / ".gitignore", tree / "docker" / "weights")
    dockerfile = tree / "docker" / "embedded" / "Dockerfile"
    args = built_with | {"BACKEND": "onnxruntime"}
    same = engine.build(dockerfile, "mlserve-test/same", tree, args)
    with (tree / "mlserve" / "server" / "app.py").open("a") as file:
        file.write("\n# changed\n")
    changed = engine.build(dockerfile, "mlserve-test/changed", tree, args)
    assert _layers(engine, same) != _layers(engine, changed)
    assert _exported_at(engine, same) == _exported_at(engine, changed)
    # The base, constraints.txt, the requirements, and what was installed by them.
    installed = len(_layers(engine, built_with["PYTHON_IMAGE"])) + 3
    assert _layers(engine, same)[:installed] == _layers(engine, changed)[:installed]


def _layers(engine: Engine, image: str) -> list[str]:
    layers: list[str] = engine.inspect(image)["RootFS"]["Layers"]
    return layers


def _exported_at(engine: Engine, image: str) -> str:
    manifest = f"/models/{MODEL}/1/mlserve.json"
    text = engine("run", "--rm", "--entrypoint", "cat", image, manifest)
    return str(json.loads(text)["created"])
