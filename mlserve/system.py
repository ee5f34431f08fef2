"""The resources that the operating system grants this process: CPUs and memory."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the CPUs of the scheduler's affinity mask, or the cgroup's quota if that is less."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    """Return the name of the CPU's model, as the kernel has it; else its architecture."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL; real-time signals have none but SIGRTMIN+6."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def allow_open_files(wanted: int) -> int:
    """Let this process, and those that it starts, open so many files; return how many they may.

    The soft limit is raised as far as the system allows, and never lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def _quota_v2(cgroup: Path) -> float | None:
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(cgroup: Path) -> float | None:
    quota, period = (_read(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # no cgroup of that kind here, so no quota


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MEMORY_FILES = {"": "memory.max", "memory": "memory.limit_in_bytes"}
"""The file of the limit by the name of its controller, which cgroups v2 leave out."""
_UNLIMITED = 2**60
"""Limits from here on mean unlimited: cgroups v1 writes a huge number for that."""
_MAPPED = 2 * 2**20
_TRIMMED = 4 * 2**20


def give_back_large_blocks() -> None:
    """Make glibc's malloc map blocks of 2 MiB and more separately, and unmap them when freed.

    By default it raises that limit to 32 MiB as such blocks are freed, and keeps up to twice as
    much of each heap: the pixels of one large image would stay in the server's memory. Does nothing
    if the C library has no `mallopt`.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED)


def usable_memory() -> int:
    """Return the bytes this process may use: the machine's, or the cgroup's if that is less."""
    total, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), memory_limit()
    return total if limit is None else min(total, limit)


def memory_limit(cgroup: Path = _CGROUP, own: Path = _OWN_CGROUP) -> int | None:
    """Return the bytes that the process's cgroup and those above it allow; None for no limit.

    In a container the process's own cgroup is the uppermost that it sees. Under systemd it is that
    of the service, with the limit of `MemoryMax=`. `own` is the file that names it.
    """
    texts = (_read(folder / name) for folder, name in _memory_files(cgroup, own))
    limits = [int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED]
    return min(limits, default=None)


def _memory_files(cgroup: Path, own: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder of each cgroup that the process is in, and the name of its limit's file."""
    paths = {"": "/", "memory": "/"}  # of cgroups v2, and of the memory in v1
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys({*controllers.split(",")} & paths.keys(), path))
    for controller, name in _MEMORY_FILES.items():
        place = PurePosixPath(paths[controller])
        if ".." in place.parts:  # outside of what this process sees
            place = PurePosixPath("/")
        for level in (place, *place.parents):
            yield cgroup / controller / level.relative_to("/"), name


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
