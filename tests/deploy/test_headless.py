"""A name with the addresses of two servers, as that of a headless Service: both are asked.

The name is in a file of hosts that only the client's process sees, in a mount namespace.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlserve.deploy.kubernetes.manifests import manifest_files
from mlserve.deploy.kubernetes.values import ClusterSetup
from tests.deploy.conftest import MakePlan
from tests.harness.deployed import Pod, container_of, read_manifests, running_container
from tests.harness.echo import EchoModel, manifest
from tests.harness.ports import free_ports

pytestmark = pytest.mark.server

ADDRESSES = ("127.0.0.2", "127.0.0.3")
_ASK = """
import json, sys
from collections import Counter
from mlserve.client import Client
with Client(sys.argv[1], model="flowers") as client:
    print(json.dumps(Counter(client.predict(b"photo", timeout=20).label for _ in range(20))), flush=True)
    sys.stdin.readline()
    print(json.dumps(Counter(client.predict(b"photo", timeout=20).label for _ in range(10))))
"""  # noqa: E501


@pytest.fixture
def pods(make_plan: MakePlan, tmp_path: Path) -> Iterator[tuple[int, list[Pod]]]:
    """The gRPC port, and two pods with it on addresses of their own; each has its own label."""
    grpc_port, first, second = free_ports(3)
    with ExitStack() as stack:
        found = []
        for address, rest_port in zip(ADDRESSES, (first, second), strict=True):
            plan = make_plan(grpc_port=grpc_port, rest_port=rest_port)
            objects = read_manifests(manifest_files(plan, ClusterSetup()))
            container = container_of(objects["Deployment"]["spec"]["template"]["spec"])
            # Each pod has an address of its own in a cluster.
            container["args"] = [
                f"--host={address}" if argument.startswith("--host=") else argument
                for argument in container["args"]
            ]
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                container[name]["httpGet"]["host"] = address
            folder = tmp_path / address
            folder.mkdir()
            served = EchoModel(folder / "flowers")
            served.put(3, manifest=manifest("flowers"), label=address)
            found.append(stack.enter_context(running_container(container, {"/models": folder})))
        for pod in found:
            pod.wait_started()
        yield grpc_port, found


def test_requests_go_to_every_pod_and_to_the_one_that_is_left(
    pods: tuple[int, list[Pod]], tmp_path: Path
) -> None:
    grpc_port, (first, _) = pods
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{address} flowers-grpc\n" for address in ADDRESSES))
    inside = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", str(hosts)]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"a process cannot have a file of hosts of its own: {tried.stderr.strip()}")
    asking = subprocess.Popen(
        [*command, sys.executable, "-c", _ASK, f"flowers-grpc:{grpc_port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    both: dict[str, Any] = json.loads(asking.stdout.readline())
    first.terminate()
    assert first.process.wait(60) == 0
    left, _ = asking.communicate("go on\n", timeout=60)

    assert set(both) == set(ADDRESSES)
    assert min(both.values()) >= 5
    assert json.loads(left) == {ADDRESSES[1]: 10}
