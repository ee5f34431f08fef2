"""A Docker engine of the tests' own, where root may start one and none runs yet.

It pulls nothing: its base image is made of Debian's packages and of the Python that runs the tests.
Run as a program, this module tries it: it starts the engine, and in it a container with a published
port that gets a package from the registry as an image's build does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import platformdirs

from mlserve.testing.containers import PIP_INDEX, Engine
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


def why_no_private_engine() -> str:
    """Why `private_engine` cannot work here; empty when it can."""
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
    """A dockerd with its own socket, data and bridge, which leaves nothing behind."""
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
    """A network bridge of our own: two engines on one bridge would hand out the same addresses."""
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
    """Writes a Debian with the Python that runs now, and no packages but pip."""
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
    """Why no container runs in an engine of our own here; empty when one does."""
    if reason := why_no_private_engine():
        return reason
    try:
        with private_engine() as engine:
            engine("run", "--rm", "--publish", "127.0.0.1::80", BASE_IMAGE, "true")
            index = [word for name in PIP_INDEX for word in ("--env", name)]
            get = ("pip", "download", "--quiet", "--no-deps", "--dest", "/tmp", "pluggy")  # noqa: S108
            engine("run", "--rm", "--network=host", *index, BASE_IMAGE, *get)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(_try() or 0)
