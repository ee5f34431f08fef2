"""Written manifests as data, and the container of one run as a process of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from mlserve.testing.processes import wait_until

Manifest = dict[str, Any]


def read_manifests(files: Mapping[str, str]) -> dict[str, Manifest]:
    """Return the objects in the files by kind; Services by kind and name."""
    found = {}
    for text in files.values():
        for data in yaml.safe_load_all(text):
            if isinstance(data, dict) and "kind" in data:
                is_service = data["kind"] == "Service"
                end = f"/{data['metadata']['name']}" if is_service else ""
                found[data["kind"] + end] = data
    return found


def container_of(pod_spec: Manifest) -> Manifest:
    """Return the only container of a pod."""
    [container] = pod_spec["containers"]
    assert isinstance(container, dict)
    return container


@dataclass
class Pod:
    """A container's process. `root` stands for the container's file system."""

    process: subprocess.Popen[bytes]
    container: Manifest
    root: Path

    @property
    def rest(self) -> str:
        port = self.container["readinessProbe"]["httpGet"]["port"]
        return f"http://127.0.0.1:{port}"

    def probe(self, name: str) -> int | None:
        """Return the status that a probe of the container gets now; None for no connection."""
        get = self.container[name]["httpGet"]
        scheme = get.get("scheme", "HTTP").lower()
        try:
            place = f"{get.get('host', '127.0.0.1')}:{get['port']}"
            return httpx.get(
                f"{scheme}://{place}{get['path']}", verify=False, timeout=5
            ).status_code
        except httpx.TransportError:
            return None

    def wait_started(self) -> None:
        """Wait until the startup probe succeeds."""
        wait_until(self._has_started)

    def _has_started(self) -> bool:
        assert self.process.poll() is None, self.log()
        return self.probe("startupProbe") == 200

    def log(self) -> str:
        return (self.root / "log").read_text()

    def terminate(self) -> None:
        """Send what the kubelet sends after preStop."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def running_container(
    container: Manifest, mounts: Mapping[str, Path], expressions: Mapping[str, str] | None = None
) -> Iterator[Pod]:
    """Run a container's command with its arguments and no variables but its own and PATH.

    `mounts` are the folders that stand for its volumes, by their paths inside. `expressions` are
    what a controller replaces in the arguments.
    """
    inside = {mount["mountPath"] for mount in container.get("volumeMounts", ())} - {"/tmp"}
    assert set(mounts) >= inside, f"no folder stands for {inside - set(mounts)}"

    with tempfile.TemporaryDirectory(prefix="mlserve-pod-") as folder:
        root = Path(folder)

        def placed(text: str) -> str:
            for path, real in mounts.items():
                text = text.replace(f"={path}", f"={real}")
            for expression, value in (expressions or {}).items():
                text = text.replace(expression, value)
            return text

        python, *command = container["command"]
        assert python == "python"
        argv = [sys.executable, *command, *map(placed, container["args"])]
        env = {item["name"]: item["value"] for item in container["env"]}
        with (
            (root / "log").open("wb") as log,
            subprocess.Popen(
                argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=root,
                env={"PATH": os.environ["PATH"], **env},
            ) as process,
        ):
            try:
                yield Pod(process, container, root)
            finally:
                if process.poll() is None:
                    process.kill()


def put_config_map(volume: Path, data: Mapping[str, str], revision: int) -> None:
    """Write a ConfigMap's files into its volume as the kubelet does, also over an older one.

    The files are in a folder of their own; a link to it is replaced by a rename, so that all files
    change at once; each file's name in the volume is a link through that link.
    """
    aside = volume / f"..2026_11_27_{revision}"
    aside.mkdir(parents=True)
    for name, text in data.items():
        (aside / name).write_text(text)
    old = (volume / "..data").resolve() if (volume / "..data").exists() else None
    fresh = volume / "..data_tmp"
    fresh.symlink_to(aside.name)
    fresh.rename(volume / "..data")
    for name in data:
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    if old is not None:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
