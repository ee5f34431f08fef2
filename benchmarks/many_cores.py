"""How mlserve grows with the cores: answers a second beside the model in process and FastAPI.

A server has the first n cores (taskset), the load generator the others. Each figure is the better
of 2n and 4n clients, median of the rounds. In process is measured as n callers of one session, and
as n processes with one caller each, one on each core, which no lock can slow down.

    python benchmarks/many_cores.py [--cores 2,4,8,12] [--seconds 3] [--rounds 3] [--json FILE]

On a machine that reaches no package registry, bring a folder along that `many_cores_pack.py` fills.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import exchanges
from compare import MODELS, subject_of
from measuring import Subject, check, closed_loop, in_process_command
from running import running
from servers import AS_INSTALLED, SERVING, Command, Launch, Peer, Settings, mlserve_servers

CPUS = sorted(os.sched_getaffinity(0))
CEILING = "in process, one process a core"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", default="2,4,8,12", metavar="N,...")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="efficientnet_lite0", choices=MODELS)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="exported; default: export it")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    counts = [int(number) for number in options.cores.split(",")]
    if max(counts) > len(CPUS):
        parser.error(f"--cores {max(counts)} is more than the {len(CPUS)} that may be used here")
    table: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="many-cores-") as folder:
        subject = subject_of(options.name, Path(folder), options.model)
        image = Path(folder) / "photo.jpg"
        image.write_bytes(subject.images[0])
        for count in counts:
            table[count] = measure_cores(count, subject, image, options.seconds, options.rounds)
            print(rows(count, table[count]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


def measure_cores(
    count: int, subject: Subject, image: Path, seconds: float, rounds: int
) -> dict[str, float]:
    """Return the medians of all on so many cores, in answers a second."""
    cores = CPUS[:count]
    measured: dict[str, Callable[[], float]] = {
        CEILING: lambda: _in_process([[core] for core in cores], 1, subject, image, seconds),
        "in process, n callers": lambda: _in_process([cores], count, subject, image, seconds),
    }
    for peer, settings in _servers(count):
        measured[f"{peer.name} ({settings})"] = lambda peer=peer, settings=settings: _served(  # type: ignore[misc]
            peer, settings, cores, subject, seconds
        )
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for name in list(measured)[:: -1 if number % 2 else 1]:
            found[name].append(measured[name]())
    return {name: statistics.median(found[name]) for name in measured}


def rows(count: int, rates: dict[str, float]) -> str:
    """Return the part of the table for so many cores."""
    ceiling = max(rate for name, rate in rates.items() if name.startswith("in process"))
    return "\n".join(
        f"{count:>3} cores  {name:<46}{rate:>8.0f}/s{rate / ceiling:>8.2f} of in process"
        for name, rate in rates.items()
    )


def _servers(count: int) -> Iterator[tuple[Peer, Settings]]:
    yield from ((peer, AS_INSTALLED) for peer in mlserve_servers(count))
    settings = Settings(count, 1)
    predict = exchanges.plain("/predict")
    yield Peer("FastAPI", "fastapi", _uvicorn, predict, lambda _: (settings,), ""), settings


def _uvicorn(launch: Launch) -> Command:
    """Run FastAPI with this interpreter, as no other environment may be at hand."""
    argv = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--host", "127.0.0.1"]
    argv += ["--port", launch.port, "--workers", launch.settings.workers]
    argv += ["--log-level", "warning", "--no-access-log"]
    path = os.pathsep.join(filter(None, (str(SERVING), os.environ.get("PYTHONPATH"))))
    return argv, {"PYTHONPATH": path}


def _served(
    peer: Peer, settings: Settings, cores: list[int], subject: Subject, seconds: float
) -> float:
    """Return the answers a second of a server that has those cores."""
    pinned = replace(peer, command=_pinned(peer.command, cores))
    with (
        _generator_beside(cores),
        running(pinned, settings, subject.images[0], len(cores), model=subject.folder) as server,
    ):
        check(server, subject)
        clients = 2 * len(cores), 4 * len(cores)
        return max(closed_loop(server, subject, n, seconds).rate for n in clients)


def _pinned(command: Callable[[Launch], Command], cores: list[int]) -> Callable[[Launch], Command]:
    def pinned(launch: Launch) -> Command:
        argv, env = command(launch)
        return [*_taskset(cores), *argv], env

    return pinned


def _taskset(cores: list[int]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


@contextmanager
def _generator_beside(cores: list[int]) -> Iterator[None]:
    """Keep this process on the other cores, if there are any."""
    others = set(CPUS) - set(cores)
    os.sched_setaffinity(0, others or CPUS)
    try:
        yield
    finally:
        os.sched_setaffinity(0, CPUS)


def _in_process(
    groups: list[list[int]], callers: int, subject: Subject, image: Path, seconds: float
) -> float:
    """Return the answers a second of a process for each group of cores, all at the same time."""
    command = in_process_command(subject.folder, image, callers, 1, seconds)
    processes = [
        subprocess.Popen([*_taskset(group), *command], stdout=subprocess.PIPE, text=True)
        for group in groups
    ]
    total = 0.0
    for process in processes:
        output, _ = process.communicate(timeout=300)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        total += float(json.loads(output)["rate"])
    return total


if __name__ == "__main__":
    main()
