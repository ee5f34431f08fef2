"""A Docker engine, driven by the `docker` command, and the containers of a test.

`private_engine` starts one for the tests, if root can and none is running yet. It pulls nothing:
its base image is made of Debian's packages and of the Python that runs the tests. Run as a program,
this module tests it: it starts the engine, and in it a container with a published port that fetches
a package from the registry, as an image build does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from mlserve.client import Client
from mlserve.testing.processes import wait_until

_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
BASE_IMAGE = _PYTHON.replace("python", "python:") + "-slim"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SITE_PACKAGES = f"usr/local/lib/{_PYTHON}/site-packages"
_DEBIAN_PACKAGES = (
    *("ca-certificates", "libssl3", "libffi8", "libsqlite3-0", "libbz2-1.0", "liblzma5"),
    *("zlib1g", "libreadline8", "libncursesw6", "libuuid1"),
)
_BASE_ENV = (
    "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "
    f"PIP_CERT={_CERTIFICATES}"
)
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)
"""Options of `docker run` that drop privileges a server does not need."""
PIP_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
"""The variables that tell pip, in a container too, where packages come from."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine, driven by the `docker` command."""

    host: str | None

    def __call__(self, *args: str, timeout: float = 120) -> str:
        """Run `docker ARGS` and return its stdout without the last line end. It must succeed."""
        done = self.attempt(*args, timeout=timeout)
        assert done.returncode == 0, f"docker {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def attempt(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGS` to its end, even if it fails."""
        argv = ["docker", *args]
        return subprocess.run(
            argv, check=False, env=self.env, capture_output=True, text=True, timeout=timeout
        )

    @property
    def env(self) -> dict[str, str]:
        """Return the environment for commands that use this engine."""
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}

    def build(
        self,
        dockerfile: Path,
        tag: str,
        context: Path,
        args: Mapping[str, str],
        target: str | None = None,
    ) -> str:
        """Build an image and return its tag; `args` are build arguments."""
        index = {name: os.environ[name] for name in PIP_INDEX if name in os.environ}
        given = [f"--build-arg={name}={value}" for name, value in (index | {**args}).items()]
        options = () if target is None else ("--target", target)
        where = ("--network=host", "--file", str(dockerfile), "--tag", tag)
        self("build", *where, *given, *options, str(context), timeout=1200)
        return tag

    def inspect(self, name: str) -> dict[str, Any]:
        """Return the engine's description of a container or an image."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found


@dataclass(frozen=True)
class Container:
    """A container with a server; the engine chooses its published ports."""

    engine: Engine
    id: str
    model: str

    @property
    def state(self) -> dict[str, Any]:
        """Return the container's `State`: Status, Running, ExitCode, OOMKilled, Health, ..."""
        state: dict[str, Any] = self.engine.inspect(self.id)["State"]
        return state

    def endpoint(self, protocol: str) -> str:
        """Return the address for a client; `protocol` is "grpc" or "rest"."""
        address = self.engine("port", self.id, "8500" if protocol == "grpc" else "8501")
        return address if protocol == "grpc" else f"http://{address}"

    def client(self, protocol: str = "grpc") -> Client:
        return Client(self.endpoint(protocol), model=self.model)

    def log(self) -> str:
        """Return its output so far, of both streams."""
        done = self.engine.attempt("logs", self.id)
        return done.stdout + done.stderr

    def wait_healthy(self) -> None:
        """Wait until the image's own health check has succeeded."""
        wait_until(self._is_healthy, timeout=180)

    def wait_ended(self, timeout: float = 60) -> int:
        """Wait until it has ended and return its exit code."""
        wait_until(lambda: not self.state["Running"], timeout)
        return int(self.state["ExitCode"])

    def _is_healthy(self) -> bool:
        state = self.state
        assert state["Running"], self.log()
        return bool(state["Health"]["Status"] == "healthy")


Run = Callable[..., Container]


@contextmanager
def containers(engine: Engine) -> Iterator[Run]:
    """Yield `run(IMAGE, MODEL, *args, options=())`, which starts containers; remove them later."""
    with ExitStack() as stack:

        def run(image: str, model: str, *args: str, options: Sequence[str] = ()) -> Container:
            ports = ("--publish", "127.0.0.1::8500", "--publish", "127.0.0.1::8501")
            often = ("--health-interval", "1s")
            identity = engine("create", *ports, *often, *options, image, *args)
            stack.callback(engine.attempt, "rm", "--force", "--volumes", identity)
            engine("start", identity)
            return Container(engine, identity, model)

        yield run


def why_no_private_engine() -> str:
    """Return why `private_engine` cannot work here; empty if it can."""
    absent = [
        name for name in ("docker", "dockerd", "debootstrap", "ip") if shutil.which(name) is None
    ]
    if os.geteuid() != 0:
        return "it takes root"
    if absent:
        return f"{', '.join(absent)} not installed"
    if not (Path(sys.base_prefix) / "lib" / _PYTHON / "ensurepip").is_dir():
        return f"the Python at {sys.base_prefix} cannot be copied into an image"
    return ""


@contextmanager
def private_engine() -> Iterator[Engine]:
    """Start a dockerd with its own socket, data and bridge, which leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="mlserve-docker-"))
    bridge = f"mlserve{os.getpid() % 10**7}"
    engine = Engine(f"unix://{folder}/docker.sock")
    argv = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    argv += ["dockerd", "--host", str(engine.host), "--bridge", bridge]
    argv += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    argv += ["--pidfile", f"{folder}/pid", "--iptables=false", "--ip6tables=false"]
    argv += ["--ip-forward=false"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_quietly, "umount", f"{folder}/exec/netns/default")
        stack.enter_context(_bridge(bridge))
        log = stack.enter_context((folder / "log").open("wb"))
        daemon = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        stack.callback(_stop, daemon)

        def answers() -> bool:
            assert daemon.poll() is None, (folder / "log").read_text()
            return engine.attempt("version").returncode == 0

        wait_until(answers)
        _import_base(engine)
        yield engine


@contextmanager
def _bridge(name: str) -> Iterator[None]:
    """Create our own network bridge: two engines on one would assign the same addresses."""
    _succeed("ip", "link", "add", name, "type", "bridge")
    try:
        address = f"172.29.{os.getpid() % 256}.1/24"
        _succeed("ip", "address", "add", address, "dev", name)
        _succeed("ip", "link", "set", name, "up")
        yield
    finally:
        _quietly("ip", "link", "delete", name)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    with suppress(subprocess.TimeoutExpired):
        daemon.wait(30)
    daemon.kill()
    daemon.wait()


def _quietly(*argv: str) -> None:
    subprocess.run(argv, capture_output=True, check=False)


def _import_base(engine: Engine) -> None:
    digest = hashlib.sha256(_CERTIFICATES.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cached = platformdirs.user_cache_path("mlserve-tests") / f"base-{digest}.tar"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            _make_base(Path(folder) / "root")
            _archive(Path(folder) / "root", Path(folder) / "tar").rename(cached)
    engine("import", "--change", _BASE_ENV, str(cached), BASE_IMAGE)


def _archive(root: Path, to: Path) -> Path:
    _succeed("tar", "-C", str(root), "-cf", str(to), ".")
    return to


def _make_base(root: Path) -> None:
    """Write a Debian with the running Python, and no packages but pip."""
    packages = f"--include={','.join(_DEBIAN_PACKAGES)}"
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().split("\n") if line
    )["VERSION_CODENAME"]
    _succeed("debootstrap", "--variant=minbase", packages, release, str(root))
    local, base = root / "usr" / "local", Path(sys.base_prefix)
    shutil.copy(base / "bin" / _PYTHON, local / "bin")
    for library in (base / "lib").glob("libpython3*.so*"):
        shutil.copy(library, local / "lib", follow_symlinks=False)
    skipped = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*")
    shutil.copytree(base / "lib" / _PYTHON, local / "lib" / _PYTHON, symlinks=True, ignore=skipped)
    (root / _SITE_PACKAGES).mkdir()
    for link in ("python", "python3"):
        (local / "bin" / link).symlink_to(_PYTHON)
    shutil.copy(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
    _succeed("chroot", str(root), "ldconfig")
    _succeed("chroot", str(root), "python3", "-m", "ensurepip", "--default-pip")


def _succeed(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"


def _try() -> str:
    """Return why a private engine cannot run a container here; empty if it can."""
    if reason := why_no_private_engine():
        return reason
    try:
        with private_engine() as engine:
            engine("run", "--rm", "--publish", "127.0.0.1::80", BASE_IMAGE, "true")
            index = [word for name in PIP_INDEX for word in ("--env", name)]
            get = ("pip", "download", "--quiet", "--no-deps", "--dest", "/tmp", "pluggy")
            engine("run", "--rm", "--network=host", *index, BASE_IMAGE, *get)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(_try() or 0)
