"""What the machine, or the container that this runs in, has: ports, CPUs, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

from mlserve.doctor.finding import Finding, Status
from mlserve.launch import ports
from mlserve.launch.state import read_records
from mlserve.system import memory_limit, usable_cpus

AREA = "machine"
_ENOUGH_MEMORY = 2 * 2**30
"""Bytes that exporting with TensorFlow takes."""


def look() -> Iterator[Finding]:
    """Findings on the default ports, the CPUs and the memory."""
    yield port_finding("port gRPC", ports.GRPC_PORT)
    yield port_finding("port REST", ports.REST_PORT)
    yield _cpus()
    yield _memory()


def port_finding(name: str, port: int) -> Finding:
    """Whether a server could listen on that port, and who does otherwise."""
    data = {"port": port}
    if ports.is_free("127.0.0.1", port):
        return Finding(AREA, name, Status.OK, f"{port} is free", data=data)
    for record in read_records(lambda _: None):
        if port in (record.grpc_port, record.rest_port):
            text = f"{port} is {record.name}'s, a server of mlserve up"
            return Finding(AREA, name, Status.OK, text, data=data)
    holder = ports.owner(port)
    text = f"{port} is taken" + (f" by {holder}" if holder else "")
    fix = "none is needed: mlserve up takes the next free pair, and predict finds it"
    return Finding(AREA, name, Status.WARN, text, fix, data)


def _cpus() -> Finding:
    usable, there = usable_cpus(), os.cpu_count() or 1
    text = f"{usable} of {there} CPUs may be used" if usable < there else f"{usable} CPUs"
    return Finding(AREA, "cpus", Status.OK, text, data={"usable": usable, "machine": there})


def _memory() -> Finding:
    machine, limit = psutil.virtual_memory(), memory_limit()
    available = machine.available if limit is None else min(limit, machine.available)
    text = f"{_gib(available)} available of {_gib(machine.total)}"
    text += "" if limit is None else f", limited to {_gib(limit)} by the cgroup"
    data = {"available": available, "total": machine.total, "limit": limit}
    if available >= _ENOUGH_MEMORY:
        return Finding(AREA, "memory", Status.OK, text, data=data)
    fix = "make room: an export with TensorFlow takes about 2 GiB; serving with ONNX Runtime less"
    return Finding(AREA, "memory", Status.WARN, text, fix, data)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
