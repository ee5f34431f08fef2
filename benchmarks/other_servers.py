"""What other servers do with work that nobody waits for any more, and with SIGTERM.

Each serves the same model (`other_servers/work.py`: half a second, one at a time), as it comes and,
where it has settings for that, with limits made for this one load. Twenty callers ask at once, over
REST or over gRPC with a deadline, and leave after 1.2 s, so two can be answered. Then one asks, and
the server is told to stop while the model runs. `docs/comparison.md` has the results.

    python benchmarks/other_servers.py [--bentoml PYTHON] [--litserve PYTHON] [--only NAME]

Triton and MLServer are taken from the environments of `make foreign`; BentoML and LitServe from
the interpreter that is named, of an environment that holds them. What is not there is left out.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc
import tritonclient.utils

HERE = Path(__file__).parent
PARTS = HERE / "other_servers"
WORK, PATIENCE, CALLERS = 0.5, 1.2, 20
"""Seconds that a run takes, and that a caller waits; the number of callers at once."""
ANSWERED, LEFT, CUT_OFF = "200", "left", "cut off"
FOREIGN = runpy.run_path(str(HERE.parent / "tests" / "foreign" / "build.py"))
IMAGE = (HERE.parent / "examples" / "horse.jpg").read_bytes()


Call = Callable[[float], str]
"""Calls once within that many seconds. Returns a status, or how else the call ended."""
Command = tuple[list[Any], dict[str, str]]


@dataclass(frozen=True)
class Server:
    """A server to compare.

    `prepare` writes its files into a folder, and returns its command and environment for a port;
    `connect` returns a function that calls that port.
    """

    name: str
    prepare: Callable[[Path, int], Command]
    connect: Callable[[int], Call]


def _rest(path: str, body: dict[str, Any], **headers: str) -> Callable[[int], Call]:
    def connect(port: int) -> Call:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False, headers=headers)

        def call(timeout: float) -> str:
            try:
                return str(client.post(path, json=body, timeout=timeout).status_code)
            except httpx.TimeoutException:
                return LEFT
            except httpx.HTTPError:
                return CUT_OFF

        return call

    return connect


def _oip_grpc(port: int) -> Call:
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
    tensor = tritonclient.grpc.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))

    def call(timeout: float) -> str:
        try:
            client.infer("m", [tensor], client_timeout=timeout)
        except tritonclient.utils.InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            return {"DEADLINE_EXCEEDED": LEFT}.get(status, status)
        return "200"

    return call


def _mlserve(folder: Path, port: int) -> Command:
    version = folder / "model" / "1"
    version.mkdir(parents=True)
    config = {"delay": WORK, "journal": str(folder / "journal")}
    (version / "echo.json").write_text(json.dumps(config))
    argv = [sys.executable, "-m", "mlserve.server", "--backend", "echo", "--model", "m"]
    argv += ["--base-path", folder / "model", "--threads", "1"]
    return [*argv, "--rest-port", port, "--grpc-port", _free_port()], {}


def _triton(limits: str = "", protocol: str = "http") -> Callable[[Path, int], Command]:
    def prepare(folder: Path, port: int) -> Command:
        environment = FOREIGN["environment"]("triton")
        (package,) = environment.glob("lib/python*/site-packages/pytriton/tritonserver")
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        backend, model = folder / "backends" / "python", folder / "models" / "m"
        backend.mkdir(parents=True)
        stub = package / "python_backend_stubs" / python / "triton_python_backend_stub"
        for part in (*(package / "backends" / "python").iterdir(), stub):
            (backend / part.name).symlink_to(part)
        (model / "1").mkdir(parents=True)
        shutil.copy(PARTS / "triton_model.py", model / "1" / "model.py")
        shutil.copy(PARTS / "work.py", model / "1")
        (model / "config.pbtxt").write_text(
            'backend: "python" max_batch_size: 1 input { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
            f'output {{ name: "label" data_type: TYPE_STRING dims: 1 }}\n{limits}'
        )
        other = {"http": "grpc", "grpc": "http"}[protocol]
        argv = [package / "bin" / "tritonserver", "--allow-metrics=false", f"--allow-{other}=false"]
        argv += ["--model-repository", model.parent, "--backend-directory", backend.parent]
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        libraries = str(sysconfig.get_config_var("LIBDIR"))
        return [*argv, f"--{protocol}-port", port], {"PATH": path, "LD_LIBRARY_PATH": libraries}

    return prepare


def _mlserver(protocol: str) -> Callable[[Path, int], Command]:
    def prepare(folder: Path, port: int) -> Command:
        for part in ("work.py", "mlserver_runtime.py"):
            shutil.copy(PARTS / part, folder)
        settings = {"name": "m", "implementation": "mlserver_runtime.Work"}
        (folder / "model-settings.json").write_text(json.dumps(settings))
        ports = {name: _free_port() for name in ("HTTP", "GRPC", "METRICS")} | {protocol: port}
        env = {f"MLSERVER_{name}_PORT": str(value) for name, value in ports.items()}
        python = FOREIGN["environment"]("mlserver") / "bin" / "python"
        argv = [python, "-c", "from mlserver.cli import main; main()", "start", folder]
        return argv, {**env, "PYTHONPATH": str(folder), "MLSERVER_PARALLEL_WORKERS": "0"}

    return prepare


def _bentoml(python: Path, limits: dict[str, Any]) -> Callable[[Path, int], Command]:
    def prepare(folder: Path, port: int) -> Command:
        argv = [python, "-m", "bentoml", "serve", "bentoml_service:Work", "--port", port]
        env = {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "1"}
        return [*argv, "--working-dir", PARTS], {**env, "TRAFFIC": json.dumps(limits)}

    return prepare


def _litserve(python: Path, timeout: float) -> Callable[[Path, int], Command]:
    return lambda _, port: ([python, PARTS / "litserve_server.py", port, timeout], {})


def _servers(bentoml: Path | None, litserve: Path | None) -> Iterator[Server]:
    tfs, image = "/v1/models/m:predict", base64.b64encode(IMAGE).decode()
    ask: dict[str, Any] = {"inputs": {"image": [image]}}
    milliseconds = str(round(PATIENCE * 1000))
    told = _rest(tfs, ask, **{"X-Request-Timeout-Ms": milliseconds})
    yield Server("mlserve, told the deadline", _mlserve, told)
    yield Server("mlserve, not told", _mlserve, _rest(tfs, ask))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    oip = _rest("/v2/models/m/infer", {"inputs": [tensor]})
    if FOREIGN["environment"]("triton").exists():
        policy = f"timeout_action: REJECT default_timeout_microseconds: {milliseconds}000"
        limits = f"dynamic_batching {{ default_queue_policy {{ {policy} max_queue_size: 1 }} }}"
        yield Server("Triton", _triton(), oip)
        yield Server("Triton, gRPC", _triton(protocol="grpc"), _oip_grpc)
        batching = _triton("dynamic_batching { }", protocol="grpc")
        yield Server("Triton, gRPC, dynamic batching", batching, _oip_grpc)
        yield Server("Triton, with limits", _triton(limits), oip)
    if FOREIGN["environment"]("mlserver").exists():
        yield Server("MLServer", _mlserver("HTTP"), oip)
        yield Server("MLServer, gRPC", _mlserver("GRPC"), _oip_grpc)
    plain = _rest("/predict", {"x": 1})
    if bentoml:
        limited = {"timeout": PATIENCE, "max_concurrency": 2}
        yield Server("BentoML", _bentoml(bentoml, {"timeout": 60}), plain)
        yield Server("BentoML, with limits", _bentoml(bentoml, limited), plain)
    if litserve:
        yield Server("LitServe", _litserve(litserve, 0), plain)
        yield Server("LitServe, with limits", _litserve(litserve, PATIENCE), plain)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Running:
    """A server's process, the file where its model logs each run, and one caller's view of it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.port, self.journal = server, _free_port(), folder / "journal"
        self.journal.touch()
        argv, env = server.prepare(folder, self.port)
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                list(map(str, argv)),
                env={
                    **os.environ,
                    "MLSERVE_HOME": str(folder),
                    "JOURNAL": str(self.journal),
                    **env,
                },
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

    def runs(self) -> int:
        """Return how many runs of the model have begun."""
        return len(self.journal.read_text().splitlines())

    def wait_until_ready(self) -> None:
        """Return after two answers, when it has warmed up."""
        give_up, answers = time.monotonic() + 90, 0
        call = self.server.connect(self.port)
        while answers < 2:
            if time.monotonic() > give_up or self.process.poll() is not None:
                raise SystemExit((self.journal.parent / "log").read_text()[-3000:])
            answers += call(5) == ANSWERED
            time.sleep(0.1)

    def wait_until_idle(self) -> None:
        """Return when no run has begun for a while."""
        runs, since = self.runs(), time.monotonic()
        while time.monotonic() < since + 4 * WORK:
            time.sleep(0.05)
            if self.runs() != runs:
                runs, since = self.runs(), time.monotonic()


@contextmanager
def _running(server: Server) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        running = Running(server, Path(folder))
        try:
            running.wait_until_ready()
            running.wait_until_idle()
            yield running
        finally:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()


def _together(calls: list[Call]) -> list[tuple[str, float]]:
    """Make all calls at once; return the outcome and the seconds of each."""
    ends: list[tuple[str, float]] = []

    def ask(call: Call) -> None:
        began = time.monotonic()
        ended = call(PATIENCE)
        ends.append((ended, time.monotonic() - began))

    threads = [threading.Thread(target=ask, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def leave(server: Server) -> str:
    """Measure twenty callers who give up: a row of the first table."""
    with _running(server) as running:
        before = running.runs()
        ends = _together([server.connect(running.port) for _ in range(CALLERS)])
        until_left = running.runs()
        running.wait_until_idle()
        refused = [seconds for ended, seconds in ends if ended not in {ANSWERED, LEFT}]
        slowest = f"{max(refused) * 1000:.0f} ms" if refused else "-"
        counts = Counter(ended for ended, _ in ends)
        after = running.runs() - until_left
        cells = counts[ANSWERED], len(refused), counts[LEFT], slowest, until_left - before, after
        return " | ".join(map(str, cells)) + f" | {after * WORK:.1f} s"


def stop(server: Server) -> str:
    """Send SIGTERM while the model runs for one caller: a row of the second table."""
    with _running(server) as running:
        before, ends, call = running.runs(), [], server.connect(running.port)
        caller = threading.Thread(target=lambda: ends.append(call(10)))
        caller.start()
        while running.runs() == before:
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        caller.join()
        try:
            code = str(running.process.wait(15))
        except subprocess.TimeoutExpired:
            code = "still there after 15 s"
        return f"{ends[0]} | {code}"


def main() -> None:
    """Print both tables in one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bentoml", type=Path, metavar="PYTHON")
    parser.add_argument("--litserve", type=Path, metavar="PYTHON")
    parser.add_argument("--only", default="", metavar="NAME")
    arguments = parser.parse_args()
    wanted = [
        server
        for server in _servers(arguments.bentoml, arguments.litserve)
        if server.name.lower().startswith(arguments.only.lower())
    ]
    print("| server | answered | refused | left | slowest refusal | runs | runs after | busy for |")
    for server in wanted:
        print(f"| {server.name} | {leave(server)} |", flush=True)
    print("\n| server | the request in flight at SIGTERM | exit code |")
    for server in wanted:
        print(f"| {server.name} | {stop(server)} |", flush=True)


if __name__ == "__main__":
    main()
