"""What the comparison ran on: the processor, the system, and the versions of all servers."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

import psutil
from environments import ROOT, version

from mlserve.system import usable_cpus

_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8")
"""The CPU flags that decide how fast a model runs."""
_DISTRIBUTIONS = {
    "FastAPI": ("fastapi", ("fastapi", "uvicorn")),
    "LitServe": ("litserve", ("litserve",)),
    "BentoML": ("bentoml", ("bentoml",)),
    "MLServer": ("mlserver", ("mlserver",)),
    "TorchServe": ("torchserve", ("torchserve",)),
    "Ray Serve": ("ray", ("ray",)),
    "Triton": ("triton", ("nvidia-pytriton",)),
}


def machine() -> dict[str, str]:
    """Return what was measured on, by what it is."""
    info = _cpuinfo()
    flags = set(info.get("flags", "").split())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": info.get("model name", platform.machine()),
        "usable CPUs": str(usable_cpus()),
        "CPU flags": ", ".join(flag for flag in _TELLING if flag in flags) or "none that matter",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of all servers, and of the runtime that they share."""
    found = {"mlserve": f"{installed('mlserve')}, commit {_commit()}"}
    for name, (environment, packages) in _DISTRIBUTIONS.items():
        found[name] = ", ".join(
            f"{package} {version(environment, package)}" for package in packages
        )
    return {**found, "ONNX Runtime": f"{installed('onnxruntime')} in all of them"}


def command() -> str:
    """Return the command that was given."""
    arguments = " ".join(sys.argv[1:])
    return f"make bench-peers ARGS='{arguments}'" if arguments else "make bench-peers"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = [line.partition(":") for line in lines]
    return {name.strip(): value.strip() for name, _, value in reversed(pairs)}
