"""What `mlserve deploy kubernetes` writes, run by an engine as a kubelet runs it."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.errors import NotFound, Unavailable
from mlserve.store import Store
from mlserve.testing.processes import wait_until
from tests.harness.deployed import Manifest, put_config_map, read_manifests
from tests.harness.echo import PHOTO, manifest, put_version
from tests.harness.engine import Engine
from tests.harness.pod import Pod, running_pod
from tests.harness.ports import free_ports

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.timeout(900)]
ARTIFACT = "mlserve-test-artifact:2"
Manifests = Callable[..., dict[str, Manifest]]


@pytest.fixture
def manifests(cli, built: Path, tmp_path: Path) -> Manifests:
    """`manifests(*flags)` are the objects for a pod of the image that `built` has made."""

    def write(*flags: str) -> dict[str, Manifest]:
        folder = tmp_path / "k8s"
        given = ("--image", "mlserve-echo-m:1", "--pre-stop", "1", "--output-dir", str(folder))
        done = cli("deploy", "kubernetes", "--backend", "echo", *given, *flags, "--force")
        assert done.returncode == 0, done.stderr
        return read_manifests({path.name: path.read_text() for path in folder.glob("*.yaml")})

    return write


@pytest.fixture
def artifact(cli, built: Path) -> Iterator[str]:
    """An image of a version whose calls take a while, and of nothing else."""
    base = Store().base_path("echo", "m")
    put_version(base / "2", manifest=manifest("m"), delay=0.1)
    done = cli("build", "--backend", "echo", "--artifact-only", "--tag", ARTIFACT)
    assert done.returncode == 0, done.stderr
    identity = cli.docker("image", "inspect", "--format", "{{.Id}}", ARTIFACT)
    assert done.stdout == f"{ARTIFACT}  {identity}\n"
    yield ARTIFACT
    cli.docker("image", "rm", ARTIFACT)


@dataclass
class Callers:
    """Clients that ask until nothing answers any more; what came of it, by when they began."""

    pod: Pod
    answered: list[tuple[float, str]] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)
    """When each of them has seen that the pod is no more."""

    def over_rest(self) -> None:
        body = b'{"inputs": ["x"]}'
        while True:
            with closing(http.client.HTTPConnection(self.pod.address, 8501, timeout=30)) as asked:
                try:
                    asked.connect()
                except OSError:  # its port is closed, or its address is no more
                    self.gone.append(time.monotonic())
                    return
                while self._ask(asked, body):
                    pass

    def _ask(self, asked: http.client.HTTPConnection, body: bytes) -> bool:
        began = time.monotonic()
        asked.request("POST", "/v1/models/m:predict", body)
        answer = asked.getresponse()
        answer.read()
        self.answered.append((began, str(answer.status)))
        return not answer.will_close

    def over_grpc(self) -> None:
        with self.pod.client(model="m", retries=ONCE, throttle=False) as client:
            while True:
                began = time.monotonic()
                try:
                    client.predict(PHOTO, timeout=30)
                except Unavailable:
                    self.answered.append((began, "503"))
                    if not self.pod.state["Running"]:
                        self.gone.append(time.monotonic())
                        return
                else:
                    self.answered.append((began, "200"))


def test_a_pod_with_an_image_volume_drains_inside_its_grace(
    engine: Engine, manifests: Manifests, artifact: str, tmp_path: Path
) -> None:
    found = manifests("--artifacts", f"oci+native://{artifact}", "--cpus", "1", "--memory", "1Gi")
    with running_pod(engine, found, tmp_path / "pod") as pod, ThreadPoolExecutor(5) as threads:
        assert pod.probe("readinessProbe") == pod.probe("livenessProbe") == 200
        assert "version 2 of m is available" in pod.log()
        _runs_as_many_calls_as_it_has_cpus(pod)
        callers, signalled = Callers(pod), threading.Event()
        asking = [threads.submit(callers.over_rest) for _ in range(2)]
        asking += [threads.submit(callers.over_grpc) for _ in range(2)]
        wait_until(lambda: len(callers.answered) > 8)

        ending = threads.submit(pod.terminate, signalled)
        signalled.wait(30)
        sent = time.monotonic()
        wait_until(lambda: pod.probe("readinessProbe") != 200)
        assert ending.result(60) < pod.spec["terminationGracePeriodSeconds"]
        for each in asking:
            each.result(30)

        assert pod.state["ExitCode"] == 0, pod.log()
        assert min(callers.gone) > sent, "one of them could not connect before"
        assert {status for began, status in callers.answered if began < sent} == {"200"}
        assert {status for _, status in callers.answered} <= {"200", "503"}
        assert Counter(status for _, status in callers.answered)["200"] > 8


def _runs_as_many_calls_as_it_has_cpus(pod: Pod) -> None:
    limit = pod.container["resources"]["limits"]["cpu"]
    assert f"--threads={limit}" in pod.container["args"]
    ask = "from mlserve.system import usable_cpus; print(usable_cpus())"
    assert pod.engine("exec", pod.id, "python", "-c", ask) == limit


def test_a_pod_that_runs_out_of_memory_is_seen_as_such_and_starts_again(
    engine: Engine, manifests: Manifests, tmp_path: Path
) -> None:
    settings = ("--max-request-bytes", str(2**31), "--max-body-memory", str(2**32))
    found = manifests("--memory", "8Gi", "--default-timeout", "120", *settings)
    [container] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    container["resources"]["limits"]["memory"] = "256Mi"  # which `deploy` would have refused
    with running_pod(engine, found, tmp_path / "pod") as pod:
        url = f"http://{pod.address}:8501/v1/models/m:predict"
        with pytest.raises(httpx.TransportError):
            httpx.post(url, content=_large_body(), timeout=60)
        state = pod.wait_ended()
        assert (state["ExitCode"], state["OOMKilled"]) == (137, True)

        pod.start()
        with pod.client(model="m") as client:
            assert client.predict(PHOTO, timeout=30).label == "sorrel"


def _large_body() -> Iterator[bytes]:
    """Yield a request of 1 GiB, four times what the pod has."""
    yield b'{"inputs": ["'
    for _ in range(1024):
        yield b"x" * 2**20
    yield b'"]}'


def test_a_pod_follows_its_config_map_without_a_restart(
    engine: Engine, manifests: Manifests, tmp_path: Path
) -> None:
    found = manifests("--config-map")
    data: dict[str, Any] = found["ConfigMap"]["data"]
    with running_pod(engine, found, tmp_path / "pod") as pod:
        with pod.client(model="m") as client:
            assert client.predict(PHOTO, timeout=30).label == "sorrel"
        started = pod.state["StartedAt"]

        [(name, text)] = data.items()
        assert ".models.m]" in text
        put_config_map(pod.config, {name: text.replace(".models.m]", ".models.other]")}, 2)

        with pod.client(model="other") as client:
            assert wait_until(lambda: _label(client)) == "sorrel"
        assert pod.state["StartedAt"] == started
        assert pod.probe("readinessProbe") == 200


def _label(client: Any) -> str:
    """Return the label of a photo; empty while the server does not know the model yet."""
    try:
        return str(client.predict(PHOTO, timeout=10).label)
    except NotFound:
        return ""


def test_compose_runs_what_deploy_writes(cli, built: Path, engine: Engine, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    grpc, rest = map(str, free_ports(2))
    flags = ("--grpc-port", grpc, "--rest-port", rest, "--token-file", str(token))
    done = cli("deploy", "compose", "--backend", "echo", *flags, "--output-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr

    def compose(*args: str) -> None:
        command = str(Path(sys.executable).with_name("docker-compose"))
        argv = [command, "--project-directory", str(tmp_path), *args]
        ran = subprocess.run(
            argv, env=engine.env, capture_output=True, text=True, check=False, timeout=240
        )
        assert ran.returncode == 0, ran.stderr

    try:
        compose("up", "--detach", "--wait")
        with Client(f"127.0.0.1:{grpc}", model="m", token=token.read_text()) as client:
            assert client.predict(PHOTO, timeout=30).label == "sorrel"
        assert httpx.get(f"http://127.0.0.1:{rest}/v2/models/m").status_code == 401
    finally:
        compose("down")
