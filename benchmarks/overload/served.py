"""The servers that are overloaded: a fresh one for each case, with mlserve's default settings."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from classifiers import CLASSES, MODELS, write_model
from PIL import Image

from mlserve.bench.connection import Request
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import PredictRequest
from mlserve.wire.services import PREDICTION, method_path

BACKEND = "onnxruntime"
AGENT = "overload-bench/1"
"""The user agent of all callers but mlserve's own client."""
_IDLE, _LOOK = 0.1, 0.05
"""A server that uses less than this fraction of one core is idle; how often it is looked at."""
_WORK = re.compile(r'^mlserve_work_total\{outcome="(\w+)"\} (\S+)', re.MULTILINE)
_JPEG_SIDE = 32
_DARK, _BRIGHT = (40, 30, 20), (240, 250, 230)


@dataclass(frozen=True)
class Installation:
    """One mlserve and what it has exported, in a home of its own.

    It is the one that runs this program, or the one in the folder `source`. Its models compute, or
    it `sleeps`: the test backend `echo` then waits as long as they would take, and a machine that
    has other work to do still has the same capacity.
    """

    home: Path
    source: Path | None = None
    sleeps: bool = False

    def run(self, *arguments: str) -> str:
        """Run a command of mlserve, and return what it prints. Raises SystemExit if it fails."""
        other = {} if self.source is None else {"PYTHONPATH": str(self.source)}
        done = subprocess.run(
            [sys.executable, "-m", "mlserve", *arguments],
            env={**os.environ, "MLSERVE_HOME": str(self.home), **other},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise SystemExit(f"mlserve {arguments[0]} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def folder(self, name: str) -> Path:
        """Return the folder of the model's versions."""
        return self.home / "sleeping" / name if self.sleeps else self._store / name

    @property
    def _store(self) -> Path:
        return self.home / "data" / "models" / BACKEND

    def table(self, name: str) -> list[str]:
        """Return the lines of the configuration that say where the model is."""
        own = self.folder(name)
        where = [f'path = "{own}"', "threads = 2"] if self.sleeps else [f'backend = "{BACKEND}"']
        return [f"[servers.overload.models.{name}]", *where]

    def export(self, name: str) -> None:
        """Export the model of that name, unless that is done."""
        if self.folder(name).is_dir():
            return
        if self.sleeps:
            version = self.folder(name) / "1"
            version.mkdir(parents=True)
            (version / "echo.json").write_text(json.dumps({"delay": MODELS[name].seconds}))
            return
        model, file, labels = MODELS[name], self.home / f"{name}.onnx", self.home / "labels.txt"
        write_model(file, model)
        labels.write_text("".join(f"class {number}\n" for number in range(CLASSES)))
        size = ("--input-size", str(model.side), "--scale", "0..1", "--labels", str(labels))
        self.run("export", "--backend", BACKEND, "--model", name, "--weights", str(file), *size)

    def publish_again(self, name: str) -> None:
        """Publish the newest version of the model once more, as the next one."""
        folder = self.folder(name)
        newest = max(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        aside = folder / f".{newest + 1}.aside"
        shutil.copytree(folder / str(newest), aside)
        aside.rename(folder / str(newest + 1))


@dataclass(frozen=True)
class Server:
    """A running server: its addresses and the process that has its ports."""

    grpc: str
    rest: str
    pid: int
    installation: Installation = field(repr=False)

    def target(self, requests: Sequence[Request], transport: str) -> Target:
        """Return the target for these requests, which are sent in turn."""
        connection = self.connection(transport)
        return Target("mlserve", connection.endpoint, tuple(requests), pids=(self.pid,))

    def connection(self, transport: str) -> Connection:
        """Return the address for rest or grpc."""
        return Connection.to(self.grpc if transport == "grpc" else self.rest, transport)

    def request(
        self,
        model: str,
        transport: str,
        wait: float,
        *,
        is_told: bool = True,
        is_bright: bool = False,
    ) -> Request:
        """Return the request of a caller that waits so many seconds, and says so or not."""
        image = jpeg(is_bright=is_bright)
        if transport == "grpc":
            body = _predict_request(model, image).SerializeToString()
            call = Call(method_path(PREDICTION, "Predict"), body, {"user-agent": AGENT})
        else:
            encoded = base64.b64encode(image).decode()
            body = json.dumps({"inputs": [{"b64": encoded}]}).encode()
            call = Call(f"/v1/models/{model}:predict", body, {"user-agent": AGENT})
        to = self.connection(transport)
        (ready,) = Target.of_calls("mlserve", to, [call], wait, is_told=is_told).requests
        return ready

    @property
    def processes(self) -> list[psutil.Process]:
        """Its processes, the first of which has the ports."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def work(self) -> dict[str, int]:
        """Return how many calls were started that have ended, by their outcome."""
        url = f"http://{self.rest}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = _WORK.findall(answer.read().decode())
        return {outcome: int(float(count)) for outcome, count in found}

    def seconds_until_idle(self, at_most: float = 20.0) -> float:
        """Return the seconds until its processes stop using the CPU."""
        started = time.monotonic()
        busy_until, used, at = started, self._cpu_seconds(), started
        while at - busy_until < 4 * _LOOK and at - started < at_most:
            time.sleep(_LOOK)
            now, now_used = time.monotonic(), self._cpu_seconds()
            if now_used - used > _IDLE * (now - at) + 0.01:  # the clock ticks every 0.01 s
                busy_until = now
            used, at = now_used, now
        return busy_until - started

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return sum(each.user + each.system for each in times)


@contextmanager
def serving(
    installation: Installation, models: Sequence[str], processes: int | None
) -> Iterator[Server]:
    """Serve these models with a server of their own, which has learned nothing yet."""
    for model in models:
        installation.export(model)
    lines = ["[servers.overload]", "grpc_port = 0", "rest_port = 0", 'launcher = "embedded"']
    for model in models:
        lines += installation.table(model)
        lines += [] if processes is None else [f"processes = {processes}"]
    (installation.home / "mlserve.toml").write_text("\n".join([*lines, ""]))
    installation.run("up", "overload")
    try:
        (record,) = json.loads(installation.run("ps", "--output", "json"))
        addresses = (f"{record['host']}:{record[port]}" for port in ("grpc_port", "rest_port"))
        yield Server(*addresses, record["pid"], installation)
    finally:
        installation.run("down", "--all")


def jpeg(*, is_bright: bool = False) -> bytes:
    """Return a file of a few hundred bytes: the cost is the model's, not the decoder's."""
    buffer = io.BytesIO()
    colour = _BRIGHT if is_bright else _DARK
    Image.new("RGB", (_JPEG_SIDE, _JPEG_SIDE), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _predict_request(model: str, image: bytes) -> PredictRequest:
    asked = PredictRequest()
    asked.model_spec.name = model
    asked.model_spec.signature_name = "serving_default"
    tensor = asked.inputs["image"]
    tensor.dtype = DType.BYTES.tf_number
    tensor.tensor_shape.dim.add(size=1)
    tensor.string_val.append(image)
    return asked
