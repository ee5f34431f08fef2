"""`--record DIR`: what a server writes down of its traffic, and what that never costs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.client import Client
from mlserve.client.retries import ONCE
from mlserve.errors import MlserveError, Overloaded
from mlserve.recording.folder import segments_in
from mlserve.recording.reading import Recording
from mlserve.recording.records import RecordedRequest
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.telemetry import recorder as recorders
from mlserve.server.telemetry.recorder import Recorder
from mlserve.settings import ServerSettings
from mlserve.testing.processes import wait_until
from tests.harness.requests import PHOTO, hang_up
from tests.harness.server import EchoServer, EchoServers

TOKEN = "a-secret-of-the-server"
FLAGS = ("--threads=1", "--record-bytes=4194304")


def requests_in(folder: Path, *, reads_bytes: bool = True) -> list[RecordedRequest]:
    """The requests that are recorded so far, in the order in which they came."""
    if not folder.is_dir() or not segments_in(folder):
        return []
    found = Recording.open([folder]).requests(reads_bytes=reads_bytes)
    return sorted(found, key=lambda each: each.arrived)


def recorded(folder: Path, count: int) -> list[RecordedRequest]:
    """Wait until so many requests are recorded, and return them."""
    wait_until(lambda: len(requests_in(folder, reads_bytes=False)) >= count)
    found = requests_in(folder)
    assert len(found) == count
    return found


def metrics_of(server: EchoServer) -> dict[str, float]:
    text = httpx.get(f"{server.endpoint('rest')}/metrics").text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines if name.startswith("mlserve_record")}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServers]:
    with ExitStack() as stack:
        yield EchoServers(tmp_path_factory.mktemp("record"), stack)


@pytest.fixture(scope="module")
def sampling(
    servers: EchoServers, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EchoServer, Path]:
    """A server with a token that records everything, and its folder."""
    base = tmp_path_factory.mktemp("sampling")
    (base / "token").write_text(f"web = {TOKEN}\n")
    (base / "token").chmod(0o600)
    folder = base / "records"
    flags = ("--record-bodies=1", f"--token-file={base / 'token'}")
    model = servers.model
    if not (model.base_path / "1").exists():
        model.put(1)
    server = servers.stack.enter_context(
        _running(servers, *FLAGS, f"--record={folder}", *flags, log=base / "log")
    )
    wait_until(server.has_loaded)
    return server, folder


def _running(servers: EchoServers, *flags: str, log: Path) -> Any:
    from tests.harness.server import running

    return running(servers.model, log, *flags)


def test_every_kind_of_request_is_recorded_with_its_bytes_and_no_secret(
    sampling: tuple[EchoServer, Path],
) -> None:
    server, folder = sampling
    for protocol in ("grpc", "rest"):
        for api in ("tfs", "oip"):
            with Client(
                server.endpoint(protocol),
                model="m",
                api=api,
                token=TOKEN,
                priority="critical" if api == "oip" else None,
            ) as client:
                client.predict(PHOTO, timeout=7)
    headers = {"authorization": f"Bearer {TOKEN}", "cookie": "session=1"}
    body = json.dumps({"instances": ["x"], "signature_name": "serving_default"}).encode()
    url = f"http://{server.rest}/v1/models/m/versions/1:predict?key=value"
    assert httpx.post(url, content=body, headers=headers).status_code == 200
    bad = httpx.post(url, content=b"{", headers=headers)
    assert bad.status_code == 400
    found = recorded(folder, 6)
    *usual, plain, refused = found
    assert [(each.kind.transport, each.kind.api) for each in usual] == [
        (transport, api) for transport in ("grpc", "rest") for api in ("tfs", "oip")
    ]
    for each in usual:
        kind = each.kind
        assert (kind.model, kind.version, kind.token, kind.code) == ("m", 1, "web", "ok")
        assert kind.priority == ("critical" if kind.api == "oip" else "default")
        assert 1 < each.timeout <= 7
        assert 0 < each.run <= each.seconds
        assert each.sample is not None
        assert len(each.sample.body) == each.bytes_in
        assert each.sample.answer
        assert each.sample.digest
    assert plain.timeout == 0
    assert plain.sample is not None
    assert plain.sample.body == body
    assert plain.kind.path == "/v1/models/m/versions/1:predict"
    assert (refused.kind.code, refused.sample and refused.sample.body) == ("invalid_input", b"{")
    assert refused.sample is not None
    assert refused.sample.answer is None
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        content = file.read_bytes()
        for secret in (TOKEN, "session=1", "Bearer", "key=value"):
            assert secret.encode() not in content
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_refusals_deadlines_and_callers_that_leave_are_recorded_without_bodies(
    tmp_path: Path,
) -> None:
    folder, released = tmp_path / "records", tmp_path / "released"
    slow = {"inputs": {"seconds": [60.0]}, "signature_name": "slow"}
    with ExitStack() as stack:
        flags = ("--max-queue=0", "--drain-timeout=0.1", *FLAGS, f"--record={folder}")
        server = EchoServers(tmp_path, stack)(*flags, released=str(released))
        path = f"http://{server.rest}/v1/models/m:predict"
        hang_up(path, slow, once=lambda: metrics_running(server) == 1)
        once = Client(server.grpc, model="m", retries=ONCE)
        with once as client, pytest.raises(Overloaded):
            client.predict(PHOTO, timeout=20)  # the model still runs
        released.touch()
        wait_until(lambda: metrics_running(server) == 0)
        released.unlink()
        headers = {"x-request-timeout-ms": "200"}
        assert httpx.post(path, json=slow, headers=headers).status_code in (429, 504)
        wait_until(lambda: len(requests_in(folder)) >= 3)
    found = requests_in(folder)
    left, late = found[0], found[-1]
    assert (left.kind.code, left.timeout) == ("cancelled", 0)
    assert 0 < left.seconds < 30, "not the minute that the model takes"
    assert late.timeout == pytest.approx(0.2)
    refused = [each for each in found if each.kind.refused]
    assert refused
    assert {each.kind.transport for each in found} == {"grpc", "rest"}
    assert all(each.sample is None for each in found)
    assert PHOTO not in b"".join(file.read_bytes() for file in folder.iterdir())


def metrics_running(server: EchoServer) -> float:
    text = httpx.get(f"{server.endpoint('rest')}/metrics").text
    [line] = [each for each in text.splitlines() if each.startswith("mlserve_requests_running ")]
    return float(line.split()[1])


def test_kill_9_loses_no_more_than_what_was_not_yet_written(
    servers: EchoServers, tmp_path: Path
) -> None:
    """And the next server with the folder writes beside it."""
    folder = tmp_path / "records"
    flags = (*FLAGS, f"--record={folder}", "--record-bodies=0.5")
    server = servers(*flags)
    with httpx.Client() as client:
        for number in range(300):
            body = {"inputs": [f"photo {number}"]}
            assert client.post(f"http://{server.rest}/v1/models/m:predict", json=body).is_success
            if number == 200:
                written = len(recorded(folder, 201))
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    found = requests_in(folder)
    assert written <= len(found) <= 300
    assert all(each.kind.code == "ok" and each.bytes_in for each in found)
    sampled = [each.sample for each in found if each.sample is not None]
    assert 60 < len(sampled) < 240
    assert all(json.loads(each.body)["inputs"][0].startswith("photo ") for each in sampled)
    again = servers(*flags)
    assert again.answers()
    assert len(recorded(folder, len(found) + 1)) == len(found) + 1
    assert len({file.process for file in segments_in(folder)}) == 2


def test_two_servers_record_to_one_folder_and_a_stop_writes_what_is_left(
    servers: EchoServers, tmp_path: Path
) -> None:
    folder = tmp_path / "records"
    both = [servers(*FLAGS, f"--record={folder}") for _ in range(2)]
    for server in both:
        for _ in range(20):
            assert server.answers()
    for server in both:
        server.process.terminate()
        assert server.exit_code() == 0
    assert len(requests_in(folder)) == 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 KiB; only a system that lets this process mount one has it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_recording_not_the_serving_and_it_goes_on_by_itself(
    servers: EchoServers, small_disk: Path
) -> None:
    folder, filling = small_disk / "records", small_disk / "filling"
    server = servers(*FLAGS, f"--record={folder}", "--record-bodies=1")
    body = {"inputs": ["x" * 2000]}
    url = f"http://{server.rest}/v1/models/m:predict"
    filling.write_bytes(bytes(16_384))

    def is_stopped() -> bool:
        assert httpx.post(url, json=body).is_success
        return metrics_of(server)["mlserve_recording"] == 0

    wait_until(is_stopped)
    lost = metrics_of(server)['mlserve_record_lost_total{reason="disk"}']
    assert lost > 0
    assert server.log().count("recording has stopped") == 1
    with server.client() as client:
        told = client.load(timeout=10).recording
    assert told is not None
    assert "No space left" in told.problem
    assert str(told).startswith("stopped: No space left")
    kept = len(requests_in(folder))
    assert kept > 0
    filling.unlink()
    for file in segments_in(folder)[:-1]:
        file.path.unlink()

    def goes_on() -> bool:
        assert httpx.post(url, json={"inputs": ["y"]}).is_success
        return metrics_of(server)["mlserve_recording"] == 1

    wait_until(goes_on)
    assert "recording goes on" in server.log()
    assert server.log().count("recording has stopped") == 1
    wait_until(lambda: any(each.bytes_in < 100 for each in requests_in(folder)))


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(
    servers: EchoServers, tmp_path: Path, cli: Any
) -> None:
    (tmp_path / "file").write_text("x")
    if not (servers.model.base_path / "1").exists():
        servers.model.put(1)
    with _running(servers, f"--record={tmp_path / 'file'}", log=tmp_path / "log") as server:
        assert server.exit_code() == 2
    assert f"{tmp_path / 'file'} (--record) cannot be written" in server.log()
    put = ("--path", servers.model.base_path, "--model", "m")
    outcome = cli.up(*put, "--record", tmp_path / "file" / "below")
    assert outcome.returncode == 2
    assert f"{tmp_path / 'file'} is not a folder" in outcome.stderr


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"record_bodies": 0.5}, "--record-bodies needs --record"),
        ({"record": Path("x"), "record_bodies": 1.5}, "a share from 0 to 1, not 1.5"),
        ({"record": Path("x"), "record_bytes": 10}, "--record-bytes must be at least"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(MlserveError, match=told):
        ServerSettings(**values)


def ended(purpose: Purpose = Purpose.PREDICT, size: int = 0, keep: Any = None) -> RequestRecord:
    record = RequestRecord(route=Route("rest", "tfs", purpose, "POST /v1/models/m:predict"))
    record.answered()
    if keep is not None:
        record.sample = keep()
        record.sample.keep_body(bytes(size))
        record.sample.keep_answer(b"answer")
    return record


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorder]]:
    """A recorder whose thread writes only when it is closed."""
    monkeypatch.setattr(recorders, "_EVERY", 60.0)
    made: list[Recorder] = []

    def make(**settings: Any) -> Recorder:
        made.append(Recorder(ServerSettings(record=tmp_path / "records", **settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_what_a_full_queue_loses_is_counted_and_nobody_waits(
    recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recorders, "MOST_WAITING", 10)
    found = recorder()
    for _ in range(25):
        found.ended(ended(), 0.1)
    found.ended(ended(Purpose.PROBE), 0.1)
    assert found.counts.busy == 15
    found.close()
    assert found.to_json() == {"problem": "", "recorded": 10, "lost": 15, "bodies_lost": 0}
    assert len(requests_in(tmp_path / "records")) == 10


def test_bodies_have_a_largest_size_and_bounded_memory(
    recorder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = recorder(record_bodies=1.0, record_bytes=2**20)
    largest = 2**20 // 32
    monkeypatch.setattr(recorders, "MOST_HELD", 3 * largest)
    for size in (largest + 1, largest, largest, largest):
        found.ended(ended(size=size, keep=found.sample), 0.1)
    assert found.counts.bodies == 2  # one too large, and one for which there was no room
    found.close()
    kept = [each.sample for each in requests_in(tmp_path / "records")]
    assert [each and len(each.body) for each in kept].count(None) == 2
    assert [each.answer for each in kept if each] == [b"answer"] * 2


def test_a_share_of_the_requests_is_sampled(recorder: Any) -> None:
    found = recorder(record_bodies=0.2)
    count = sum(found.sample() is not None for _ in range(5000))
    assert 800 < count < 1200


def test_a_probe_is_not_recorded_and_neither_is_the_question_of_up(
    tmp_path: Path, export: Any, cli: Any
) -> None:
    export()  # a model of images, about which `mlserve up` asks one
    folder = tmp_path / "records"
    assert cli.up("--model", "m", "--record", folder, "--record-bodies", "1").returncode == 0
    [server] = cli.ps()
    for protocol in ("grpc", "rest"):
        for probe in (True, False):
            with Client(server[protocol], model="m", probe=probe) as client:
                client.predict(PHOTO, timeout=10)
    assert cli("down").returncode == 0
    found = requests_in(folder)
    assert [each.kind.transport for each in found] == ["grpc", "rest"]
    assert all(each.sample is not None for each in found)


def test_the_limit_holds_with_bodies_of_every_size_up_to_the_largest(
    recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file grows beyond its part, so that the folder never does beyond its limit."""
    monkeypatch.setattr(recorders, "MOST_HELD", 2**30)
    found = recorder(record_bodies=1.0, record_bytes=2**20)
    largest = 2**20 // 32
    for number in range(400):
        found.ended(ended(size=largest * (number % 11) // 10, keep=found.sample), 0.1)
    found.close()
    files = segments_in(tmp_path / "records")
    assert sum(file.size for file in files) <= 2**20
    assert max(file.size for file in files) <= 2**20 // 15
    kept = requests_in(tmp_path / "records")
    assert len(kept) > 20
    assert all(each.sample for each in kept[-5:-1])
    assert found.to_json() == {"problem": "", "recorded": 400, "lost": 0, "bodies_lost": 0}


def test_what_a_model_does_to_its_input_is_not_in_the_recording(recorder: Any) -> None:
    """An array is made of a body without copying it, and is the model's to write to."""
    sample = recorder(record_bodies=1.0).sample()
    body = bytearray(b"as it was sent")
    sample.keep_body(body)
    body[:2] = b"XX"
    assert sample.body == b"as it was sent"
