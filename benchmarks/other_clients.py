"""How long clients wait, with a limit of one second, for an answer that comes byte by byte.

The server sends the head of an answer at once, then a byte each half second, twenty in all. Clients
are called over HTTP with their own option for a time limit. `docs/comparison.md` has the results.

    python benchmarks/other_clients.py [--bentoml PYTHON]

Triton's client is a package of the tests; BentoML's is taken from the interpreter that is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LIMIT, PAUSE, LENGTH = 1.0, 0.5, 20
IMAGE = Path(__file__).parents[1] / "examples" / "horse.jpg"


class Dripping(BaseHTTPRequestHandler):
    """Answers a client's first request properly, then drips."""

    def do_GET(self) -> None:
        """Answer whether a model is there (TensorFlow Serving), and what there is (BentoML)."""
        number = {"type": "object", "properties": {"x": {"type": "number"}}}
        route = {"name": "predict", "route": "/predict", "input": number}
        first = {
            "model_version_status": [{"version": "1", "state": "AVAILABLE"}],
            "name": "Work",
            "type": "service",
            "routes": [route | {"output": {"type": "string"}, "batchable": False}],
        }
        body = json.dumps(first).encode()
        self._begin(len(body))
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Drip."""
        self._begin(LENGTH)
        for _ in range(LENGTH):
            time.sleep(PAUSE)
            self.wfile.write(b" ")

    def handle(self) -> None:
        """Answer until the client leaves."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _begin(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()


def ask_mlserve(port: int) -> None:
    """Use `timeout` of mlserve's client."""
    from mlserve import Client

    with Client(f"http://127.0.0.1:{port}", model="m") as client:
        client.predict(IMAGE, timeout=LIMIT)


def ask_triton(port: int) -> None:
    """Use `network_timeout` of Triton's client."""
    import numpy as np
    from tritonclient.http import InferenceServerClient, InferInput

    tensor = InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    client = InferenceServerClient(
        f"127.0.0.1:{port}", network_timeout=LIMIT, connection_timeout=LIMIT
    )
    client.infer("m", [tensor])


def ask_bentoml(port: int) -> None:
    """Use `timeout` of BentoML's client."""
    import bentoml

    with bentoml.SyncHTTPClient(f"http://127.0.0.1:{port}", timeout=LIMIT) as client:
        client.predict(x=1)


CLIENTS = {"mlserve": ask_mlserve, "Triton": ask_triton, "BentoML": ask_bentoml}


def measure(name: str, port: int) -> None:
    """Print a row: how long the call took, and how it ended."""
    began = time.monotonic()
    try:
        CLIENTS[name](port)
    except Exception as error:  # noqa: BLE001  each client has its own
        ended = type(error).__name__
    else:
        ended = "an answer"
    print(f"| {name} | {time.monotonic() - began:.1f} s | {ended} |", flush=True)


def main() -> None:
    """Print a row per client; each runs in its own process, with the interpreter that has it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bentoml", metavar="PYTHON")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], int(arguments.measure[1]))
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"| client | with a limit of {LIMIT:.0f} s waited | ended with |")
    pythons = {"mlserve": sys.executable, "Triton": sys.executable, "BentoML": arguments.bentoml}
    for name, python in pythons.items():
        if python:
            argv = [python, __file__, "--measure", name, str(server.server_port)]
            subprocess.run(argv, check=True)


if __name__ == "__main__":
    main()
