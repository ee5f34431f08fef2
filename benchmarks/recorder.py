"""What `--record` costs a server: its CPU for a request, and the latency, beside one without it.

Two server processes of the same model, one of which records, are asked in turn at full load, so
that the machine's moods hit both. What counts is the ratio of their CPU (user and system time of
the whole process) in the same round, and of the median latency of their requests.

    python benchmarks/recorder.py [--burn 0.001] [--bodies 0.05] [--connections 4] [--rounds 200]

Without `--burn` the model does nothing: the most that recording can cost. `--burn` is the CPU time
of each run in seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import null_request
from null_request import MODEL, WARM_UP, Connection, Load, process

from mlserve.recording.reading import Recording

_READY = r"listening grpc=\S+:(\d+) rest=\S+:(\d+).*is available"
_RESAMPLES = 2000
PROTOCOLS = ("OIP REST, binary", "TFS REST, JSON", "TFS gRPC", "OIP gRPC")


class TimedLoad(Load):
    """A load that notes how long each answer takes, in seconds."""

    def timed(self, count: int) -> tuple[float, float]:
        """Ask so many times; return the seconds of CPU for each, and the median of the latency."""
        asked_at: dict[Connection, float] = {}
        times: list[float] = []
        before = null_request._cpu_seconds(self.target.pid)  # noqa: SLF001
        asked = answered = 0
        while self._idle and asked < count:
            connection = self._idle.pop()
            asked_at[connection] = time.perf_counter()
            connection.ask()
            asked += 1
        while answered < asked:
            for key, _ in self._selector.select(20):
                connection = key.data
                if not connection.hear():
                    continue
                now = time.perf_counter()
                times.append(now - asked_at[connection])
                answered += 1
                if asked < count:
                    asked_at[connection] = now
                    connection.ask()
                    asked += 1
                else:
                    self._idle.append(connection)
        cpu = null_request._cpu_seconds(self.target.pid) - before  # noqa: SLF001
        return cpu / count, statistics.median(times)


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for each protocol: medians over the rounds, and the spread of the ratio."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as name, ExitStack() as stack:
        base = Path(name)
        (base / MODEL / "1").mkdir(parents=True)
        (base / MODEL / "1" / "model.null").touch()
        argv = ["null_server.py", str(base / MODEL), "--model", MODEL, "--burn", str(options.burn)]
        recording = ["--record", str(base / "records"), "--record-bodies", str(options.bodies)]
        targets = {}
        for kind, more in (("plain", []), ("recording", recording)):
            pid, ports = stack.enter_context(process(base / kind, _READY, *argv, *more))
            found = null_request._own_targets(pid, *ports)  # noqa: SLF001
            targets[kind] = {target.name: target for target in found}
        for protocol in options.protocols:
            loads = {
                k: TimedLoad(found[protocol], options.connections) for k, found in targets.items()
            }
            for load in loads.values():
                load.run(WARM_UP)
            rounds = []
            for number in range(options.rounds):
                order = list(loads) if number % 2 else list(reversed(loads))
                rounds.append({kind: loads[kind].timed(options.count) for kind in order})
            for load in loads.values():
                load.close()
            ratios = [each["recording"][0] / each["plain"][0] for each in rounds]
            halves = [each["recording"][1] / each["plain"][1] for each in rounds]
            low, high = _interval(ratios)
            rows.append(
                {
                    "protocol": protocol,
                    "cpu_us": statistics.median(each["plain"][0] for each in rounds) * 1e6,
                    "cpu_ratio": statistics.median(ratios),
                    "interval": [low, high],
                    "p50_ratio": statistics.median(halves),
                }
            )
        time.sleep(1.0)  # the last quarter of a second is written
        written = sum(1 for _ in Recording.open([base / "records"]).requests())
        asked = len(options.protocols) * (options.rounds * options.count + WARM_UP)
        print(f"{written} of {asked} requests are in the recording")
    return rows


def _interval(values: list[float]) -> tuple[float, float]:
    """Return between which values the median is with 95 % (bootstrap)."""
    chance = random.Random(0)
    medians = sorted(
        statistics.median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burn", type=float, default=0.0)
    parser.add_argument("--bodies", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=200, help="in turn, the two servers")
    parser.add_argument("--count", type=int, default=200, help="requests of a round")
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS, metavar="NAME")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    options = parser.parse_args()
    rows = measure(options)
    if options.output == "json":
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':<18}{'CPU us':>8}{'recording / plain':>20}{'95 % sure':>18}{'p50':>8}")
    for row in rows:
        low, high = row["interval"]  # type: ignore[misc]
        print(
            f"{row['protocol']:<18}{row['cpu_us']:>8.0f}{row['cpu_ratio']:>20.4f}"
            f"{f'{low:.4f} to {high:.4f}':>18}{row['p50_ratio']:>8.3f}"
        )


if __name__ == "__main__":
    main()
