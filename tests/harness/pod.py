"""A pod of a Deployment, run by a Docker engine with what a kubelet would give it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mlserve.client import Client
from mlserve.testing.processes import wait_until
from tests.harness.deployed import Manifest, container_of, put_config_map
from tests.harness.engine import Engine

_UNITS = {"Ki": "k", "Mi": "m", "Gi": "g"}


class Pod:
    """A container as the pod's specification says: arguments, user, limits, mounts, probes.

    Its ports are asked at its own address, so that no proxy of the engine stands between.
    """

    def __init__(self, engine: Engine, spec: Manifest, folder: Path, config: Manifest | None):
        self.engine = engine
        self.spec = spec
        self.container: dict[str, Any] = container_of(spec)
        self.config = folder / "config"
        if config is not None:
            put_config_map(self.config, config["data"], 1)
        self._folder = folder
        self.address = ""
        """The pod's IP address, once it has been started."""
        self.id = engine("create", *self._options(), *self._command())

    def start(self) -> None:
        """Start the container, the first time or again, and wait until its startup probe is fine.

        That may fail as often as the specification says.
        """
        self.engine("start", self.id)
        networks = self.engine.inspect(self.id)["NetworkSettings"]["Networks"]
        self.address = str(next(iter(networks.values()))["IPAddress"])
        probe = self.container["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            assert self.state["Running"], self.log()
            if self.probe("startupProbe") == 200:
                return
            time.sleep(0.1)  # in place of the period, which is seconds
        raise AssertionError(self.log())

    def probe(self, name: str) -> int:
        """Return the status of a probe; 0 if there is no answer in time."""
        probe = self.container[name]
        place = probe["httpGet"]
        url = f"http://{self.address}:{place['port']}{place['path']}"
        try:
            return httpx.get(url, timeout=probe["timeoutSeconds"]).status_code
        except httpx.HTTPError:
            return 0

    def terminate(self, before_signal: threading.Event) -> float:
        """End it as a deleted pod: preStop, SIGTERM, SIGKILL after the grace; return the seconds.

        The event is set when SIGTERM is sent.
        """
        began, grace = time.monotonic(), self.spec["terminationGracePeriodSeconds"]
        pause = self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        before_signal.wait(pause)
        before_signal.set()
        self.engine("stop", "--time", str(grace - pause), self.id)
        return time.monotonic() - began

    def client(self, **options: Any) -> Client:
        return Client(f"{self.address}:8500", **options)

    @property
    def state(self) -> dict[str, Any]:
        """The container's `State`."""
        state: dict[str, Any] = self.engine.inspect(self.id)["State"]
        return state

    def log(self) -> str:
        done = self.engine.attempt("logs", self.id)
        return done.stdout + done.stderr

    def wait_ended(self) -> dict[str, Any]:
        """Wait until it has ended; return its state."""
        wait_until(lambda: not self.state["Running"])
        return self.state

    def _command(self) -> list[str]:
        [program, *rest] = self.container["command"]
        return ["--entrypoint", program, self.container["image"], *rest, *self.container["args"]]

    def _options(self) -> Iterator[str]:
        rules = self.spec["securityContext"] | self.container["securityContext"]
        assert rules["runAsNonRoot"]
        yield from ("--user", f"{rules['runAsUser']}:{rules['runAsGroup']}", "--no-healthcheck")
        if rules["readOnlyRootFilesystem"]:
            yield "--read-only"
        for name in rules["capabilities"]["drop"]:
            yield from ("--cap-drop", name)
        if not rules["allowPrivilegeEscalation"]:
            yield from ("--security-opt", "no-new-privileges")
        limits = self.container["resources"]["limits"]
        memory = limits["memory"][:-2] + _UNITS[limits["memory"][-2:]]
        yield from ("--cpus", _cpus(limits["cpu"]), "--memory", memory, "--memory-swap", memory)
        for each in self.container["env"]:
            yield from ("--env", f"{each['name']}={each['value']}")
        volumes = {each["name"]: each for each in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            yield from self._mount(mount, volumes[mount["name"]])

    def _mount(self, mount: Manifest, volume: Manifest) -> Iterator[str]:
        where = mount["mountPath"]
        if "emptyDir" in volume:
            yield from ("--tmpfs", f"{where}:mode=1777")
            return
        assert mount["readOnly"]
        source = self.config if "configMap" in volume else self._unpacked(volume["image"])
        yield from ("--volume", f"{source / mount.get('subPath', '')}:{where}:ro")

    def _unpacked(self, image: Manifest) -> Path:
        """Return a folder with what an image holds: this engine mounts none as a volume."""
        holder = self.engine("create", image["reference"], "none")
        folder = self._folder / "image"
        folder.mkdir()
        self.engine("cp", f"{holder}:/.", str(folder))
        self.engine("rm", holder)
        return folder


def _cpus(quantity: str) -> str:
    return f"{int(quantity[:-1]) / 1000:g}" if quantity.endswith("m") else quantity


@contextmanager
def running_pod(engine: Engine, found: dict[str, Manifest], folder: Path) -> Iterator[Pod]:
    """Start the pod of the Deployment among these manifests; remove it at the end."""
    folder.mkdir()
    spec = found["Deployment"]["spec"]["template"]["spec"]
    pod = Pod(engine, spec, folder, found.get("ConfigMap"))
    try:
        pod.start()
        yield pod
    finally:
        engine.attempt("rm", "--force", "--volumes", pod.id)
