"""Clients of servers that refuse: what they send, what they spare them, and how important it is."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlserve.client import AsyncClient, Client, Retries, connections
from mlserve.client.retries import ONCE
from mlserve.errors import DeadlineExceeded, MlserveError, Overloaded, UsageError
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.foreign import MODEL, Refusal
from tests.harness.foreign_tfs import TfsModel

pytestmark = pytest.mark.server

LABELS = Signature(
    "top_k",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (TensorSpec("out", DType.BYTES, (None,)),),
)
SEVERAL = """
import sys
from mlserve.client import Client, Retries
from mlserve.errors import Overloaded
spared = 0
with Client(sys.argv[1], model="stranger", api="tfs", retries=Retries(1)) as client:
    for _ in range(int(sys.argv[2])):
        try:
            client.predict(b"1", timeout=20)
        except Overloaded as error:
            spared += "throttled" in error.details
print(spared)
"""
"""Asks so many times in a process of its own, and prints how many calls were not sent."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the file that processes share, empty at the beginning of each test."""
    shared = tmp_path / "runtime"
    shared.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    return shared


def refused(**headers: str) -> Refusal:
    return Refusal("RESOURCE_EXHAUSTED", "the queue is full", http=429, headers=headers)


def full(**headers: str) -> TfsModel:
    """A server that refuses every call."""
    return TfsModel((LABELS,), {"top_k": {"out": ["ox"]}}, refusal=refused(**headers))


def client_of(endpoint: str, **options: Any) -> Client:
    return Client(endpoint, **{"model": MODEL, "api": "tfs", "retries": ONCE} | options)


def outcomes(client: Client, times: int) -> list[str]:
    """What becomes of so many calls: `answered`, `refused` by the server, or `spared`."""
    found = []
    for _ in range(times):
        try:
            client.predict(b"1", timeout=20)
            found.append("answered")
        except Overloaded as error:
            found.append("spared" if "throttled" in error.details else "refused")
    return found


def spared(client: Client) -> Overloaded:
    """Ask until a call is not sent, and return its error."""
    while True:
        try:
            client.predict(b"1", timeout=20)
        except Overloaded as error:
            if "throttled" in error.details:
                return error


def test_most_calls_are_not_sent_to_a_server_that_refuses_all(serve: Any) -> None:
    model = full()
    with client_of(serve(model)) as client:
        found = outcomes(client, 300)
        assert found[:30] == ["refused"] * 30
        assert found.count("refused") == len(model.met) < 150
        assert "the call was not sent" in spared(client).message


def test_every_call_is_sent_again_once_the_server_has_room(serve: Any) -> None:
    model = full()
    with client_of(serve(model)) as client:
        assert "spared" in outcomes(client, 200)
        model.refusal = None
        while "answered" not in outcomes(client, 1):
            """A call is sent within half a second."""
        outcomes(client, 40)
        assert outcomes(client, 100) == ["answered"] * 100


def test_metadata_and_status_are_not_spared(serve: Any) -> None:
    model = full()
    with client_of(serve(model)) as client:
        spared(client)
        model.refusal = None
        assert client.metadata(timeout=20).signatures
        assert client.status(timeout=20)


def test_the_price_is_read(serve: Any) -> None:
    for_grpc, for_rest = {"mlserve-price": "0.97"}, {"x-mlserve-price": "0.97"}
    model = full(**for_grpc, **for_rest)
    with client_of(serve(model)) as client:
        found = outcomes(client, 40)
        assert "refuses 97% of the calls" in spared(client).message
    assert found.count("refused") < 20


@pytest.mark.parametrize("price", ["", "nan", "1.5", "-1", "inf", "much", "0.2"])
def test_an_odd_price_or_a_low_one_changes_nothing(serve: Any, price: str) -> None:
    model = full(**{"mlserve-price": price, "x-mlserve-price": price})
    with client_of(serve(model)) as client:
        assert outcomes(client, 20) == ["refused"] * 20


def test_a_client_can_be_told_to_send_every_call(serve: Any, folder: Path) -> None:
    model = full()
    with client_of(serve(model), throttle=False) as client:
        assert outcomes(client, 200) == ["refused"] * 200
    assert len(model.met) == 200
    assert not list(folder.iterdir())


def test_all_processes_of_a_user_spare_it_together(serve: Any) -> None:
    model = full()
    argv = [sys.executable, "-c", SEVERAL, serve(model), "150"]
    started = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    spared = [int(process.communicate(timeout=100)[0]) for process in started]

    assert len(model.met) + sum(spared) == 450
    assert len(model.met) < 200
    last = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    assert int(last.stdout) > 100, "and the next one knows it from the beginning"


def test_retries_do_not_storm(serve: Any) -> None:
    """A hundred callers, each of which would ask five times, one right after the other."""
    model = full()

    async def ask(client: AsyncClient) -> None:
        """To the deadline, at which a call may be on its way."""
        with pytest.raises((Overloaded, DeadlineExceeded)):
            await client.predict(b"1", timeout=5)

    async def main() -> None:
        stubborn = Retries(5, base=0.001)
        async with AsyncClient(endpoint, model=MODEL, api="tfs", retries=stubborn) as client:
            await ask(client)
            model.met.clear()
            await asyncio.gather(*(ask(client) for _ in range(100)))

    endpoint = serve(model)
    asyncio.run(main())
    assert len(model.met) < 200, "not 500"


def test_many_calls_are_answered_when_the_server_has_room_again(serve: Any) -> None:
    model = full()
    model.refusals, model.refusal = [refused() for _ in range(50)], None
    with client_of(serve(model), retries=Retries(base=0.01, cap=0.05)) as client:
        found = list(client.predict_many([b"1"] * 60, parallel=8, timeout=60))
    assert not [item for item in found if isinstance(item, MlserveError)]


@pytest.mark.parametrize("content", [b"\xff" * 2**16, b"\0", b"PK\x03\x04" * 5000])
def test_a_damaged_file_harms_nobody(serve: Any, folder: Path, content: bytes) -> None:
    model = full()
    with client_of(serve(model)) as client:
        assert "spared" in outcomes(client, 200)
        (file,) = folder.iterdir()
        file.write_bytes(content)
        assert outcomes(client, 20) == ["refused"] * 20
        assert "spared" in outcomes(client, 200)


def test_a_child_of_a_client_knows_it_too(serve: Any) -> None:
    model = full()
    script = Path(__file__).parents[1] / "forking.py"
    done = subprocess.run(
        [sys.executable, str(script), "spared", serve(model)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "[0, 0, 0]\n"), done.stderr
    assert len(model.met) < 150


@pytest.mark.parametrize("name", ["sheddable", "default", "critical"])
def test_the_priority_goes_with_every_call(serve: Any, name: Any) -> None:
    model = full()
    model.refusal = None
    endpoint = serve(model)
    with client_of(endpoint, priority=name) as client:
        client.predict(b"1", timeout=20)
        client.metadata(timeout=20)

    async def ask() -> None:
        async with AsyncClient(endpoint, model=MODEL, priority=name) as client:
            await client.predict(b"1", timeout=20)

    asyncio.run(ask())
    assert {met.get("x-request-priority") for met in model.met} == {name}
    model.met.clear()
    with client_of(endpoint) as client:
        client.predict(b"1", timeout=20)
    assert {met.get("x-request-priority") for met in model.met} == {None}


def test_the_priority_of_a_forked_process(over_grpc: Any, monkeypatch: Any) -> None:
    """A process that inherited the gRPC library speaks HTTP/2 by itself."""
    monkeypatch.setattr(connections, "has_inherited_grpc", lambda: True)
    model = full()
    with client_of(over_grpc(model), priority="critical") as client:
        assert outcomes(client, 1) == ["refused"]
    assert model.met[0]["x-request-priority"] == "critical"


@pytest.mark.parametrize("value", ["", "high", "Critical", 2, ["critical"]])
def test_what_is_no_priority(value: Any) -> None:
    with pytest.raises(UsageError, match="is not a priority") as caught:
        Client("127.0.0.1:1", priority=value)
    assert caught.value.hint == "choose sheddable, default or critical"


def test_the_command_says_how_important_it_is(cli: Any, serve: Any, photo: Path) -> None:
    model = full()
    model.refusal = None
    arguments = ("predict", photo, "--endpoint", serve(model), "--model", MODEL)
    assert cli(*arguments, "--priority", "critical").stdout == "ox\n"
    assert {met.get("x-request-priority") for met in model.met} == {"critical"}
    assert cli(*arguments, "--priority", "high").returncode == 2


def test_the_command_spares_a_server_and_can_be_told_not_to(
    cli: Any, serve: Any, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(60):
        (photos / f"{number}.jpg").write_bytes(b"1")
    endpoint = serve(full(**{"mlserve-price": "1", "x-mlserve-price": "1"}))
    arguments = ("predict", photos, "--endpoint", endpoint, "--model", MODEL, "--api", "tfs")
    options = ("--max-attempts", 1, "--output", "jsonl")

    found = cli(*arguments, *options)
    errors = [json.loads(line)["error"] for line in found.stdout.splitlines()]
    assert (len(errors), found.returncode) == (60, 7)
    assert "has no room" in errors[0]["message"]
    spared = [error for error in errors if "throttled" in error]
    assert len(spared) > 30
    assert spared[0]["hint"].endswith("to send every call: --no-throttle")
    assert "throttled" not in cli(*arguments, *options, "--no-throttle").stdout
