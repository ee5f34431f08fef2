"""A server of one replica behind an address: the process of the launcher of `fleet_plugin`.

It takes the flags of mlserve's own server, which it runs as its replica, and those of a cluster. On
its REST port it tells of the replica, and passes everything else on.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mlserve.cluster_options import ClusterOptions
from mlserve.pin import pin_or_none
from mlserve.wire.paths import REPLICAS
from mlserve.wire.replicas import (
    IngressCounts,
    Replica,
    ReplicaSet,
    ReplicaState,
    ReplicaVersion,
    Rolling,
    RollingState,
    Scale,
)

PLUGIN = """
from mlserve.launcher import Launcher, Traits, own_command
from mlserve.plugins import hookimpl

class Fleet(Launcher):
    name = "fleet"
    summary = "A replica behind an address."
    install_hint = "pip install fleet"
    requires = {requires!r}
    traits = Traits(is_own=True, drains=True, follows_pin=True, has_replicas=True, end_seconds=9)

    def require(self, serving):
        if serving.settings.max_queue == 7:
            raise RuntimeError("no seven")

    def command(self, serving, listen):
        more = (*serving.cluster.argv(), "--name", serving.name)
        return own_command(serving, listen, "tests.harness.fleet", *more)

@hookimpl
def mlserve_launcher():
    return Fleet
"""


def plugin(*requires: str) -> str:
    """Return the source of a plugin with the launcher `fleet`."""
    return PLUGIN.format(requires=requires)


class Front:
    """The replica, and what is told of it."""

    def __init__(self, argv: list[str]) -> None:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        for flag in ("--model", "--base-path", "--host", "--rest-port", "--name"):
            parser.add_argument(flag)
        parser.add_argument("--replicas", default="1")
        own, _ = parser.parse_known_args(argv)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        at = argv.index("--rest-port")
        passed = [*argv[:at], "--rest-port", str(self.port), *argv[at + 2 :]]
        passed = [each for each in passed[:-2] if not each.startswith("--replicas=")]
        self.replica = subprocess.Popen([sys.executable, "-P", "-m", "mlserve.server", *passed])
        self.own = own
        self._scale = ClusterOptions(replicas=own.replicas)
        self._pin: int | None = None
        self._changes = 0

    def told(self) -> ReplicaSet:
        """Return what GET /mlserve/replicas answers."""
        versions = self._versions()
        replica = Replica(
            id="r-1",
            node="node-a",
            address=f"127.0.0.1:{self.port}",
            state=ReplicaState.READY,
            versions=versions,
            in_flight=2,
            wait_seconds=0.25,
            refused=3,
            requests=1000,
        )
        pin = pin_or_none(Path(self.own.base_path))
        if pin != self._pin:
            self._pin, self._changes = pin, self._changes + 1
        return ReplicaSet(
            self.own.name,
            self.own.model,
            (replica,),
            Scale(self._scale.least, self._scale.most, 1),
            wanted_version=pin,
            rolling=None if pin is None else self._rolling(pin, versions),
            ingress=IngressCounts(requests=1003, redispatched=4, hedged=5, refused=6),
        )

    def _versions(self) -> tuple[ReplicaVersion, ...]:
        _, body = self.ask("GET", f"/v1/models/{self.own.model}", None)
        return tuple(
            ReplicaVersion(
                int(each["version"]), each["state"], each.get("status", {}).get("error_message", "")
            )
            for each in json.loads(body).get("model_version_status", ())
        )

    def _rolling(self, pin: int, versions: tuple[ReplicaVersion, ...]) -> Rolling:
        mine = next((each for each in versions if each.version == pin), None)
        serves = [each.version for each in versions if each.state == "AVAILABLE"]
        if serves == [pin]:
            return Rolling(pin, RollingState.DONE, 1, 1, number=self._changes)
        if mine is not None and mine.state == "END" and mine.error:
            return Rolling(pin, RollingState.REFUSED, 0, 1, mine.error, self._changes)
        return Rolling(pin, RollingState.ROLLING, 0, 1, number=self._changes)

    def ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Pass a request on to the replica."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except OSError:
            return 503, b'{"error": "the replica does not answer"}'
        finally:
            connection.close()


def main() -> int:
    # It goes to the whole group, so that the replica drains, and this process waits for it.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    front = Front(sys.argv[1:])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == REPLICAS:
                self._answer(200, json.dumps(front.told().to_json()).encode())
            else:
                self._answer(*front.ask("GET", self.path, None))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._answer(*front.ask("POST", self.path, body))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Keep the log to what the replica says."""

    server = ThreadingHTTPServer((front.own.host, int(front.own.rest_port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return front.replica.wait()


if __name__ == "__main__":
    sys.exit(main())
