"""A Docker engine and the containers of a test, driven by the `docker` command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve.client import Client
from mlserve.testing.processes import wait_until

HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),  # noqa: S108 - in the container
    *("--security-opt", "no-new-privileges"),
)
"""Options of `docker run` that take from a container what a server does not need."""
PIP_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
"""The variables that tell pip, in a container too, where the packages come from."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine, driven by the `docker` command."""

    host: str | None

    def __call__(self, *args: str, timeout: float = 120) -> str:
        """What `docker ARGS` printed on stdout, without the last line end. It must succeed."""
        done = self.attempt(*args, timeout=timeout)
        assert done.returncode == 0, f"docker {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def attempt(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`docker ARGS`, ended, whatever came of it."""
        argv = ["docker", *args]
        return subprocess.run(
            argv, check=False, env=self.env, capture_output=True, text=True, timeout=timeout
        )

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands that are to use this engine."""
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}

    def build(
        self,
        dockerfile: Path,
        tag: str,
        context: Path,
        args: Mapping[str, str],
        target: str | None = None,
    ) -> str:
        """The tag of the image that was built; `args` are build arguments."""
        index = {name: os.environ[name] for name in PIP_INDEX if name in os.environ}
        given = [f"--build-arg={name}={value}" for name, value in (index | {**args}).items()]
        options = () if target is None else ("--target", target)
        where = ("--network=host", "--file", str(dockerfile), "--tag", tag)
        self("build", *where, *given, *options, str(context), timeout=540)
        return tag

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found


@dataclass(frozen=True)
class Container:
    """A container with a server in it; its ports are published on ports of the engine's choice."""

    engine: Engine
    id: str
    model: str

    @property
    def state(self) -> dict[str, Any]:
        """`State` of the container: Status, Running, ExitCode, OOMKilled, Health, ..."""
        state: dict[str, Any] = self.engine.inspect(self.id)["State"]
        return state

    def endpoint(self, protocol: str) -> str:
        """Where to point a client: `protocol` is "grpc" or "rest"."""
        address = self.engine("port", self.id, "8500" if protocol == "grpc" else "8501")
        return address if protocol == "grpc" else f"http://{address}"

    def client(self, protocol: str = "grpc") -> Client:
        return Client(self.endpoint(protocol), model=self.model)

    def log(self) -> str:
        """What it has written, on both streams."""
        done = self.engine.attempt("logs", self.id)
        return done.stdout + done.stderr

    def wait_healthy(self) -> None:
        """Returns when the image's own health check has succeeded."""
        wait_until(self._is_healthy, timeout=180)

    def wait_ended(self, timeout: float = 60) -> int:
        """The exit code, as soon as it has ended."""
        wait_until(lambda: not self.state["Running"], timeout)
        return int(self.state["ExitCode"])

    def _is_healthy(self) -> bool:
        state = self.state
        assert state["Running"], self.log()
        return bool(state["Health"]["Status"] == "healthy")


Run = Callable[..., Container]


@contextmanager
def containers(engine: Engine) -> Iterator[Run]:
    """Starts containers of an image, `run(IMAGE, MODEL, *args, options=())`; removes them."""
    with ExitStack() as stack:

        def run(image: str, model: str, *args: str, options: Sequence[str] = ()) -> Container:
            ports = ("--publish", "127.0.0.1::8500", "--publish", "127.0.0.1::8501")
            often = ("--health-interval", "1s")
            identity = engine("create", *ports, *often, *options, image, *args)
            stack.callback(engine.attempt, "rm", "--force", "--volumes", identity)
            engine("start", identity)
            return Container(engine, identity, model)

        yield run
