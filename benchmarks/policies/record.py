"""Record what calls take of a real server, for the simulation: writes service_times.json.

    python benchmarks/policies/record.py [--calls 600]

A server of each model runs with its default settings, asked over REST by four clients that ask one
question after the other. What is kept is the demand of each call as the server's own admission
measures it: seconds of the whole server (`mlserve.admission.estimates`), while another runs beside
it. A machine has neighbours that come and go; so each is kept as a ratio to the median of the calls
around it, and the simulation's models take `SECONDS` times that. Run it on a machine with nothing
else to do.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mlserve.bench.load import ClosedLoop, Window, run_load
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.testing.processes import ServerProcess, stopping

FOLDER = Path(__file__).parent
TIMES = FOLDER / "service_times.json"
CLIENTS = 4
SECONDS = {"slow": 0.06, "fast": 0.006}
"""What a call of each model takes in the simulation: as in docs/overload.md, where all is quiet."""
_AROUND = 15
"""Calls before, and after, whose median a call is compared with."""
_LONGEST = 120.0
"""Seconds that the recording of one model may take."""


def main() -> None:
    """Record every model and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=600, help="of each model")
    options = parser.parse_args()
    sys.path.insert(0, str(FOLDER.parent / "overload"))
    from classifiers import CLASSES, MODELS, write_model

    found = {}
    with tempfile.TemporaryDirectory(prefix="mlserve-record-") as name:
        folder = Path(name)
        labels = folder / "labels.txt"
        labels.write_text("".join(f"class {number}\n" for number in range(CLASSES)))
        for model, seconds in SECONDS.items():
            file = folder / f"{model}.onnx"
            write_model(file, MODELS[model])
            times = recorded(folder, model, file, labels, options.calls)
            found[model] = {"seconds": seconds, "ratios": ratios(times)}
            times.sort()
            middle, worst = times[len(times) // 2], times[int(0.99 * len(times))]
            print(f"{model}: {len(times)} calls, median {middle:.4f} s, p99 {worst:.4f} s")
    TIMES.write_text(json.dumps(found) + "\n")


def recorded(folder: Path, model: str, file: Path, labels: Path, calls: int) -> list[float]:
    """Return the demand of that many calls, in the order in which they ended, in seconds."""
    from classifiers import MODELS

    env = {**os.environ, "MLSERVE_HOME": str(folder), "DEMANDS": str(folder / f"{model}.txt")}
    flags = ("--labels", str(labels), "--input-size", str(MODELS[model].side), "--scale", "0..1")
    export = [sys.executable, "-m", "mlserve", "export", "--backend", "onnxruntime"]
    done = subprocess.run(
        [*export, "--model", model, "--weights", str(file), *flags],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    base_path = Path(done.stdout.splitlines()[0]).parent
    server = [sys.executable, str(FOLDER / "recorded_server.py"), "--backend", "onnxruntime"]
    ports = ("--grpc-port", "0", "--rest-port", "0")
    log = folder / f"{model}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*server, "--model", model, "--base-path", str(base_path), *ports],
            env=env,
            stderr=output,
        ) as process,
        stopping(process),
    ):
        running = ServerProcess(process, model, log)
        running.wait_ready()
        body = json.dumps({"inputs": [{"b64": base64.b64encode(_jpeg()).decode()}]}).encode()
        to = Connection.to(running.rest, "rest")
        call = Call(f"/v1/models/{model}:predict", body)
        target = Target.of_calls(model, to, [call], 30.0)
        warm = run_load(target, ClosedLoop(CLIENTS), Window(3.0, 0.0, 30.0))
        seconds = min(_LONGEST, calls / max(warm.goodput, 1.0))
        run_load(target, ClosedLoop(CLIENTS), Window(seconds, 0.0, 30.0))
    lines = [line.split() for line in Path(env["DEMANDS"]).read_text().splitlines()]
    beside = [round(float(demand), 6) for demand, was_alone in lines if was_alone == "0"]
    return beside[-calls:]


def ratios(times: Sequence[float]) -> list[float]:
    """Return each as a ratio to the median of those around it."""
    around = (times[max(0, n - _AROUND) : n + _AROUND + 1] for n in range(len(times)))
    return [round(t / statistics.median(near), 3) for t, near in zip(times, around, strict=True)]


def _jpeg() -> bytes:
    """Return a file of a few hundred bytes: the cost is the model's, not the decoder's."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 80, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
