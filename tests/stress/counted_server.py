"""The process of `python -m mlserve.server`, which also says what it holds: for test_nothing_leaks.

Each line on its standard input is answered with a line on its standard output: a JSON object.
"""

# ruff: noqa: T201  it prints, and looks into what it counts
from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections import Counter
from typing import Any

import psutil
from mlserve_echo_runner import EchoRunner

from mlserve.server.__main__ import parse
from mlserve.server.app import Server
from mlserve.server.body_memory import BodyMemory, HeldBody
from mlserve.server.engine.job import Job
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.request import RequestRecord
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.system import give_back_large_blocks

_POOL = "asyncio_"
"""The threads of asyncio's own pool, which grows to a bound and stays."""


def counts(server: Server) -> dict[str, Any]:
    """What is alive in this process after a collection."""
    gc.collect()
    found: dict[type, list[Any]] = {
        kind: [] for kind in (Job, LoadedVersion, EchoRunner, RequestRecord, BodyMemory, HeldBody)
    }
    for item in gc.get_objects():
        if type(item) in found:
            found[type(item)].append(item)
    tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
    process = psutil.Process()
    return {
        "jobs": len(found[Job]),
        "bodies": len(found[HeldBody]),
        "body_bytes": sum(memory.held for memory in found[BodyMemory]),
        "exchanges": len(found[RequestRecord]),
        "leases": sum(loaded._leases for loaded in found[LoadedVersion]),
        "versions": len(found[LoadedVersion]),
        "open_runners": sum(not runner._closed.is_set() for runner in found[EchoRunner]),
        "running": server.parts.engine.running,
        "waiting": server.parts.engine.waiting,
        "tasks": dict(tasks),
        "threads": sum(not t.name.startswith(_POOL) for t in threading.enumerate()),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "megabytes": process.memory_info().rss / 2**20,
    }


async def main() -> None:
    """Serves until a signal, and answers each line of standard input."""
    give_back_large_blocks()
    server = Server(parse(sys.argv[1:]))

    def answer() -> None:
        if sys.stdin.readline():
            print(json.dumps(counts(server)), flush=True)
        else:
            asyncio.get_running_loop().remove_reader(sys.stdin)

    asyncio.get_running_loop().add_reader(sys.stdin, answer)
    await server.run()


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    log_to_stderr(options.settings.log_format)
    asyncio.run(main())
