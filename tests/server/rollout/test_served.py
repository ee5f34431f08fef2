"""Shadows and splits of real servers: both protocols and transports, threads and processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mlserve.client import Client
from mlserve.pin import write_pin
from mlserve.testing.processes import wait_until
from mlserve.wire.rollouts import Comparison, Mirrored, Rollouts, RolloutState, Shadow, Split
from tests.harness.echo import EchoModel
from tests.harness.server import MODEL, EchoServer, running

pytestmark = pytest.mark.server
behind_others = pytest.mark.alone
"""For a shadow in a process of its own, which gets no CPU that anything else wants."""

ALIKE = b"a photo that says horse 0.9"
"""Versions with any label answer this one alike, if they are asked for classes."""


def report(server: EchoServer, protocol: str = "rest") -> Rollouts:
    with Client(server.endpoint(protocol), model=MODEL) as client:
        told = client.rollouts(timeout=20)
    assert told is not None
    return told


def shadow_of(server: EchoServer) -> Shadow:
    [shadow] = report(server).shadows
    return shadow


def split_of(server: EchoServer) -> Split:
    [split] = report(server).splits
    return split


def is_asked(server: EchoServer) -> bool:
    return shadow_of(server).state is RolloutState.RUNNING


def versions(server: EchoServer) -> set[int]:
    found = httpx.get(f"http://{server.rest}/v1/models/{MODEL}").json()["model_version_status"]
    return {int(row["version"]) for row in found if row["state"] == "AVAILABLE"}


def metric(server: EchoServer, line: str) -> float:
    page = httpx.get(f"http://{server.rest}/metrics").text
    found = [row for row in page.splitlines() if row.startswith(line + " ")]
    return float(found[0].split()[-1]) if found else 0.0


def ask(server: EchoServer, image: bytes, protocol: str, api: Any, **options: Any) -> Any:
    with Client(server.endpoint(protocol), model=MODEL, api=api, **options) as client:
        images = np.array([image], object)
        return client.infer({"image": images}, signature="ranking", timeout=20)


def post(server: EchoServer, number: int, image: str = "x", path: str = "") -> httpx.Response:
    answer: httpx.Response = server.post(
        {"inputs": [image]}, path, headers={"x-request-id": f"request-{number}"}
    )
    return answer


def probe(server: EchoServer) -> httpx.Response:
    """Ask whether the server answers: no traffic, so neither compared nor counted."""
    answer: httpx.Response = server.post({"inputs": ["x"]}, headers={"x-request-probe": "1"})
    return answer


@pytest.fixture(scope="module", params=["--threads=2", "--processes=2"])
def mirrored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EchoServer]:
    """A server of version 1 with version 2, the latest, as its shadow."""
    folder = tmp_path_factory.mktemp("mirrored")
    model = EchoModel(folder / MODEL)
    model.put(1, label="sorrel")
    model.put(2, label="zebra")
    with running(model, folder / "log", request.param, "--shadow=2") as server:
        wait_until(server.is_available)
        wait_until(lambda: is_asked(server))
        yield server


@behind_others
def test_a_shadow_is_asked_the_same_and_never_answers(mirrored: EchoServer) -> None:
    asked = [
        ("grpc", "tfs", b"other"),
        ("grpc", "oip", ALIKE),
        ("rest", "tfs", ALIKE),
        ("rest", "oip", b"other"),
    ]
    for number, (protocol, api, image) in enumerate(asked, 1):
        answer = ask(mirrored, image, protocol, api)
        assert answer.version == 1
        assert answer["labels"][0, 0] == (b"sorrel" if image == b"other" else b"horse")
        wait_until(lambda n=number: shadow_of(mirrored).mirrored.counts.compared == n)
    assert versions(mirrored) == {1}
    told = shadow_of(mirrored).mirrored
    assert (told.counts.agrees, told.counts.differs, told.counts.failed) == (2, 2, 0)
    assert (told.signatures["ranking"].compared, told.counts.tops) == (4, 4)
    assert [(each.served.label, each.other.label) for each in told.last] == [
        ("sorrel", "zebra")
    ] * 2
    assert told.last[0].what == "zebra, not sorrel"
    assert report(mirrored, "grpc") == report(mirrored, "rest")
    assert metric(mirrored, 'mlserve_shadow_total{model="m",result="agrees"}') == 2
    assert metric(mirrored, 'mlserve_shadow_total{model="m",result="differs"}') == 2


@behind_others
def test_a_disagreement_has_the_id_of_its_request(mirrored: EchoServer) -> None:
    assert post(mirrored, 77).json() == {"outputs": ["sorrel"]}

    def ids() -> list[str]:
        return [each.request_id for each in shadow_of(mirrored).mirrored.last]

    wait_until(lambda: "request-77" in ids())
    answer = httpx.post(f"http://{mirrored.rest}/mlserve/shadow")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@behind_others
def test_a_bad_request_is_not_for_the_shadow(mirrored: EchoServer) -> None:
    before = shadow_of(mirrored).mirrored.counts
    assert post(mirrored, 1, "bad image").status_code == 415
    assert ask(mirrored, ALIKE, "rest", "tfs").version == 1
    wait_until(lambda: shadow_of(mirrored).mirrored.counts.compared == before.compared + 1)
    assert shadow_of(mirrored).mirrored.counts.failed == before.failed


def children(server: EchoServer) -> list[int]:
    """Return the server's child processes."""
    pid = server.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@behind_others
@pytest.mark.parametrize("mirrored", ["--threads=2"], indirect=True)
def test_a_shadow_that_cannot_be_loaded_is_asked_again_once_it_can(mirrored: EchoServer) -> None:
    server = mirrored
    config = server.log_path.with_name(MODEL) / "2" / "echo.json"
    was = config.read_text()
    config.write_text('{"fail_load": "the file is half there"}')
    wait_until(lambda: shadow_of(server).state is RolloutState.FAILED)
    told = shadow_of(server)
    assert told.mirrored.error == "the file is half there"
    assert post(server, 1).json() == {"outputs": ["sorrel"]}
    lines = [line for line in server.log().splitlines() if " ERROR " in line]
    assert len(lines) == 1
    assert "version 2 of m, the shadow, is not asked: the file is half there" in lines[0]
    assert "shadow: version 2 beside version 1 of m (failed): " in told.lines()[0]
    assert told.lines()[1] == "WARNING: the shadow is not asked: the file is half there"
    config.write_text(was)
    wait_until(lambda: is_asked(server))
    assert shadow_of(server).mirrored == Mirrored("version 2", Comparison(), {})


@behind_others
@pytest.mark.parametrize("mirrored", ["--threads=2"], indirect=True)
def test_a_shadow_that_hangs_or_dies_costs_no_call(mirrored: EchoServer) -> None:
    server = mirrored
    [pid] = children(server)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19

    os.kill(pid, signal.SIGSTOP)
    for number in range(40):
        assert post(server, number).json() == {"outputs": ["sorrel"]}
    wait_until(lambda: shadow_of(server).mirrored.counts.dropped)
    assert shadow_of(server).mirrored.counts.compared == 0

    os.kill(pid, signal.SIGKILL)

    def is_compared() -> bool:
        assert post(server, 100).json() == {"outputs": ["sorrel"]}
        return shadow_of(server).mirrored.counts.compared > 0

    wait_until(is_compared)
    assert children(server) != [pid]
    assert "(signal 9, SIGKILL); another one is started" in server.log()
    assert server.is_available()


def test_another_server_is_the_shadow(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-the-other-server\n")
    with ExitStack() as servers:
        folders = [tmp_path / name for name in ("here", "there")]
        models = []
        for folder, label in zip(folders, ("sorrel", "zebra"), strict=True):
            folder.mkdir()
            models.append(EchoModel(folder / MODEL))
            models[-1].put(1, label=label)
        other = servers.enter_context(
            running(models[1], tmp_path / "there.log", f"--token-file={token}")
        )
        wait_until(other.has_loaded)
        flags = f"--shadow={other.endpoint('grpc')}", f"--shadow-token-file={token}"
        here = servers.enter_context(running(models[0], tmp_path / "here.log", *flags))
        wait_until(here.is_available)
        wait_until(lambda: is_asked(here))
        assert probe(here).status_code == 200
        for number, (image, api) in enumerate([(b"x", "tfs"), (ALIKE, "oip")], 1):
            assert ask(here, image, "rest", api)["labels"][0, 0] in (b"sorrel", b"horse")
            wait_until(lambda n=number: shadow_of(here).mirrored.counts.compared == n)
        told = shadow_of(here).mirrored
        assert told.asked == other.endpoint("grpc")
        assert (told.counts.agrees, told.counts.differs, told.counts.failed) == (1, 1, 0)
        other.process.kill()
        assert post(here, 1).json() == {"outputs": ["sorrel"]}
        wait_until(lambda: shadow_of(here).mirrored.counts.failed == 1)
        assert shadow_of(here).mirrored.error


SPLIT = "--split=v2=50%,differ=100%"


@pytest.mark.parametrize("more", [("--threads=2",), ("--processes=2", "--max-batch-size=4")])
def test_a_split_gives_an_id_always_to_the_same_version(
    model: EchoModel, start: Any, channel_to: Any, more: tuple[str, ...]
) -> None:
    model.put(1, label="sorrel")
    model.put(2, label="zebra")
    server = start(SPLIT, *more)
    wait_until(lambda: versions(server) == {1, 2})
    assert {probe(server).headers["x-mlserve-model-version"] for _ in range(12)} == {"1"}
    seen: dict[int, int] = {}
    for number in range(24):
        answer = post(server, number)
        seen[number] = int(answer.headers["x-mlserve-model-version"])
        assert answer.json() == {"outputs": ["sorrel" if seen[number] == 1 else "zebra"]}
    assert set(seen.values()) == {1, 2}
    for number, version in seen.items():
        again = server.post(
            {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}]},
            f"/v2/models/{MODEL}/infer",
            headers={"x-request-id": f"request-{number}"},
        )
        assert int(again.json()["model_version"]) == version
    for version in (1, 2):  # the request's own word wins
        path = f"/v1/models/{MODEL}/versions/{version}:predict"
        found = {post(server, n, path=path).headers["x-mlserve-model-version"] for n in range(8)}
        assert found == {str(version)}
    told = split_of(server)
    assert sum(arm.asked for arm in told.arms) == 48
    assert [arm.goodput for arm in told.arms] == [1.0, 1.0]
    wait_until(lambda: split_of(server).checked.counts.compared)
    assert split_of(server).checked.last[0].served.label == "zebra"
    assert split_of(server).checked.last[0].other.label == "sorrel"
    page = httpx.get(f"http://{server.rest}/metrics").text.splitlines()
    counted = [row for row in page if row.startswith("mlserve_split_requests_total{")]
    assert all('result="answered"' in row for row in counted)
    assert sum(float(row.split()[-1]) for row in counted) == 48
    assert metric(server, 'mlserve_split_share{model="m",version="2"}') == 0.5
    assert metric(server, 'mlserve_split_stopped{model="m",version="2"}') == 0


def first_stop(server: EchoServer, send: Callable[[int], Any], most: int = 400) -> Split:
    """Send requests until the split is stopped."""
    for number in range(most):
        send(number)
        if number % 5 == 0 and (told := split_of(server)).state is RolloutState.STOPPED:
            return told
    return wait_until(lambda: (s := split_of(server)).state is RolloutState.STOPPED and s)


def test_a_split_stops_by_itself_if_the_version_fails(model: EchoModel, start: Any) -> None:
    model.put(1, label="sorrel")
    model.put(2, fail_run="out of memory")
    server = start("--split=v2=20%")
    wait_until(lambda: versions(server) == {1, 2})
    told = first_stop(server, lambda n: post(server, n))
    assert told.why == "its goodput is worse"
    assert told.arms[1].failed <= 10
    assert {post(server, n).status_code for n in range(1000, 1040)} == {200}
    assert versions(server) == {1, 2}
    warnings = [line for line in server.log().splitlines() if "the split of m is stopped" in line]
    assert len(warnings) == 1
    assert " WARNING " in warnings[0]
    assert metric(server, 'mlserve_split_stopped{model="m",version="2"}') == 1
    assert metric(server, 'mlserve_split_share{model="m",version="2"}') == 0


def test_a_split_stops_if_the_versions_disagree_and_goes_on_after_models_use(
    model: EchoModel, start: Any
) -> None:
    model.put(1, label="sorrel")
    model.put(2, label="zebra")
    server = start("--split=v2=50%")
    wait_until(lambda: versions(server) == {1, 2})
    told = first_stop(server, lambda n: post(server, n))
    assert told.why == "more than 1 % of its answers differ"
    assert told.checked.counts.differs >= 2
    assert {post(server, n).json()["outputs"][0] for n in range(40)} == {"sorrel"}

    write_pin(model.base_path, 2)  # `mlserve models use 2`
    wait_until(lambda: split_of(server).state is RolloutState.IN_USE)
    assert {post(server, n).json()["outputs"][0] for n in range(40)} == {"zebra"}
    write_pin(model.base_path, 1)
    wait_until(lambda: split_of(server).state is RolloutState.RUNNING)
    assert split_of(server).arms == ()


def test_the_version_of_a_split_that_is_not_there_yet(model: EchoModel, start: Any) -> None:
    model.put(1, label="sorrel")
    server = start("--split=v2=50%,differ=100%")
    assert {post(server, n).json()["outputs"][0] for n in range(10)} == {"sorrel"}
    assert split_of(server).state is RolloutState.FAILED
    assert split_of(server).error
    model.put(2, label="zebra")
    wait_until(lambda: split_of(server).state is RolloutState.RUNNING)
    assert {post(server, n).json()["outputs"][0] for n in range(40)} == {"sorrel", "zebra"}
    model.put(3, label="ox")  # a new latest version takes the place of 1, not of 2
    wait_until(lambda: versions(server) == {2, 3})
    assert {post(server, n).json()["outputs"][0] for n in range(40)} == {"ox", "zebra"}


def test_without_either_there_is_nothing_to_tell(server: EchoServer, channel_to: Any) -> None:
    assert report(server) == report(server, "grpc") == Rollouts()
    method = channel_to(server).unary_unary(
        "/mlserve.Server/Shadow",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    assert json.loads(method(b"", timeout=20)[2:]) == {"shadow": {}, "split": {}}
    with pytest.raises(grpc.RpcError):
        method(b"\xff", timeout=20)
