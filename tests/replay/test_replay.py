"""`mlserve replay`: what a real server has recorded, sent again to real servers."""

from __future__ import annotations

import base64
import gzip
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from mlserve.client import Client
from mlserve.recording.reading import Recording
from mlserve.recording.records import Kind, RecordedRequest, SampledBytes
from mlserve.recording.ring import Ring
from mlserve.recording.segment import Entries
from mlserve.replay.asking import given
from mlserve.replay.bodies import Renaming
from mlserve.replay.run import Replay
from mlserve.replay.selection import Selection, select, summary_of
from mlserve.testing.processes import wait_until
from mlserve.wire.proto import serving_pb2
from tests.harness.echo import EchoModel
from tests.harness.ports import free_ports
from tests.harness.requests import PHOTO
from tests.harness.server import EchoServer, running

pytestmark = pytest.mark.server

TOKENS = "web = the-token-of-the-web\nbatch = the-token-of-the-night\n"
WEB, BATCH = "the-token-of-the-web", "the-token-of-the-night"
EVERYTHING = ("--record-bodies=1", "--record-bytes=16777216")
PACKED = json.dumps({"inputs": ["packed"]}).encode()


@dataclass(frozen=True)
class Recorded:
    """A server that records, its folder, and the file with its tokens."""

    server: EchoServer
    folder: Path
    tokens: Path

    def requests(self) -> list[RecordedRequest]:
        found = Recording.open([self.folder]).requests(reads_bytes=True)
        return sorted(found, key=lambda each: each.arrived)

    def count(self) -> int:
        try:
            return len(self.requests())
        except Exception:  # noqa: BLE001 - there is no folder yet
            return 0

    @property
    def doors(self) -> tuple[str, ...]:
        """The options that name both of its ports."""
        return tuple(
            part
            for protocol in ("grpc", "rest")
            for part in ("--against", self.server.endpoint(protocol))
        )


def serve(stack: ExitStack, base: Path, *flags: str, **config: Any) -> Recorded:
    """Start a server that records everything, with two tokens."""
    model = EchoModel(base / "m")
    model.put(1, **config)
    tokens = base / "tokens"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    folder = base / "records"
    options = (f"--record={folder}", f"--token-file={tokens}", *EVERYTHING, *flags)
    server = stack.enter_context(running(model, base / "log", *options))
    wait_until(server.has_loaded)
    return Recorded(server, folder, tokens)


def ask(found: Recorded) -> None:
    """Ask in both protocols and both APIs, about different photos, as callers of two kinds."""
    for protocol in ("grpc", "rest"):
        for api in ("tfs", "oip"):
            for token, priority in ((WEB, "critical"), (BATCH, "sheddable")):
                with Client(
                    found.server.endpoint(protocol),
                    model="m",
                    api=api,  # type: ignore[arg-type]
                    token=token,
                    priority=priority,  # type: ignore[arg-type]
                ) as client:
                    client.predict(PHOTO + f" of {api} {priority}".encode(), timeout=8)
    rows = {"instances": [{"b64": base64.b64encode(PHOTO).decode()}] * 3}
    headers = {"authorization": f"Bearer {WEB}"}
    url = f"http://{found.server.rest}/v1/models/m/versions/1:predict"
    assert httpx.post(url, json=rows, headers=headers).status_code == 200
    two = {"inputs": {"a": [1.0, 2.0], "b": [3.0, 4.0]}, "signature_name": "two"}
    assert httpx.post(url, json=two, headers=headers).status_code == 200
    for upload in (
        {"files": {"image": ("a.jpg", PHOTO + b" of a form", "image/jpeg")}},
        {"content": PHOTO + b" as it is", "headers": {"content-type": "image/jpeg"}},
        {"content": gzip.compress(PACKED), "headers": {"content-encoding": "gzip"}},
    ):
        sent = {**upload, "headers": {**headers, **upload.get("headers", {})}}  # type: ignore[dict-item]
        assert httpx.post(url, **sent).status_code == 200  # type: ignore[arg-type]
    assert httpx.post(url, content=b"{", headers=headers).status_code == 400


ASKED = 14
"""How many requests `ask` sends; all but the last are answered."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A server that has recorded what `ask` sends, and nothing else."""
    with ExitStack() as stack:
        found = serve(stack, tmp_path_factory.mktemp("first"))
        ask(found)
        wait_until(lambda: found.count() == ASKED)
        yield found


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Another one, which has recorded nothing yet."""
    with ExitStack() as stack:
        yield serve(stack, tmp_path_factory.mktemp("second"))


def synthetic(folder: Path, requests: list[tuple[Kind, float, float]]) -> Path:
    """Record requests of these kinds, arrivals and timeouts, without bodies."""
    ring = Ring(folder, 2**20, began=1000.0, share=0.0, clock=lambda: 0.0)
    ring.begin()
    entries = Entries()
    for number, (kind, at, timeout) in enumerate(requests):
        entries.add_kind((number,), kind)
        entries.add(number, at, timeout, 0.01, 0.0, 0.001, 0.002, 0.0, 10)
    ring.write(entries.take())
    ring.close()
    return folder


PREDICT = "/tensorflow.serving.PredictionService/Predict"


def sampled(folder: Path, samples: list[tuple[Kind, SampledBytes]], most: int = 2**20) -> Path:
    """Record answered requests with these bytes, twenty a second."""
    ring = Ring(folder, most, began=1000.0, share=1.0, clock=lambda: 0.0)
    entries = Entries()
    for number, (kind, sample) in enumerate(samples):
        ring.begin()
        entries.begin_file()
        entries.add_kind((number,), kind)
        entries.add(0, number / 20, 5.0, 0.01, 0.0, 0.001, 0.002, 0.0, sample.size, sample)
        ring.write(entries.take())
    ring.close()
    return folder


def test_a_server_records_of_a_replay_what_the_first_one_recorded(
    first: Recorded, second: Recorded, cli: Any
) -> None:
    """Kinds, callers, deadlines, priorities and every byte: the traffic is the same."""
    found = cli.json(
        *("replay", first.folder, *second.doors, "--token-file", second.tokens),
        *("--expect", "labels=100%,outputs=1,in-time=80%,p50=20s"),
    )
    assert (found["recorded"]["requests"], found["replayed"]["requests"]) == (ASKED, ASKED)
    assert (found["recorded"]["in_time"], found["replayed"]["in_time"]) == (ASKED - 1, ASKED - 1)
    assert found["replayed"]["failed"] == found["recorded"]["failed"] == {"invalid_input": 1}
    assert found["bodies"] == {"own": ASKED, "alike": 0, "input": 0}
    agreed = found["agreement"]
    assert (agreed["recorded"], agreed["compared"]) == (ASKED - 1, ASKED - 1)
    assert (agreed["with_labels"], agreed["same_labels"]) == (ASKED - 2, ASKED - 2)
    assert (agreed["same_outputs"], agreed["differences"]) == (ASKED - 1, [])
    assert all(each["is_held"] for each in found["expected"])
    assert found["replayed"]["stages_ms"]["run"]["p50"] > 0
    wait_until(lambda: second.count() == ASKED)
    before, after = first.requests(), second.requests()
    # Those that came at nearly the same moment may come in another order.
    assert Counter(each.kind for each in after) == Counter(each.kind for each in before)
    bodies = Counter((e.kind, e.sample.body if e.sample else None) for e in before)
    assert bodies == Counter((e.kind, e.sample.body if e.sample else None) for e in after)
    for kind in bodies:
        timeouts = [
            sorted(round(each.timeout, 1) for each in side if each.kind == kind[0])
            for side in (before, after)
        ]
        assert timeouts[0] == pytest.approx(timeouts[1], abs=0.5)


def test_a_version_is_served_for_the_replay_and_its_other_labels_fail_a_job(
    first: Recorded, export: Any, cli: Any
) -> None:
    """Also requests that asked for version 1 by name are asked of the one that is named."""
    export(version=1)
    export(version=2, label="zebra", offset=1.0)
    against = ("replay", first.folder, "--against", "m@2")
    found = cli.json(*against, "--expect", "labels=99%", code=8)
    assert found["asked"] == "echo/m@2"
    assert len(found["endpoints"]) == 2
    assert found["replayed"]["in_time"] == ASKED - 1
    assert found["agreement"]["same_labels"] == 0
    assert found["agreement"]["same_outputs"] == 0
    [sums] = [each for each in found["agreement"]["differences"] if each["label"] is None]
    assert sums["distance"] == pytest.approx(0.25)  # 4 became 5, and 6 became 7
    changed = found["agreement"]["differences"][0]
    assert (changed["label"], changed["replayed_label"]) == ("sorrel", "zebra")
    assert found["expected"] == [{"expected": "labels=0.99", "is_held": False, "share": 0.0}]
    outcome = cli(*against)
    assert outcome.returncode == 0, outcome.stderr
    text = " ".join(outcome.stdout.split())
    assert f"0 of {ASKED - 2} labels are the same" in text
    assert "sorrel, now zebra" in text
    assert "recorded times are those in the server" in text
    assert cli.ps() == []


def test_a_transport_without_an_endpoint_is_told_and_may_be_left_out(
    first: Recorded, second: Recorded, cli: Any
) -> None:
    to = ("--against", second.server.endpoint("rest"), "--token-file", second.tokens)
    outcome = cli("replay", first.folder, *to)
    assert outcome.returncode == 2
    assert "4 recorded requests came over grpc" in outcome.stderr
    assert "--protocol rest" in outcome.stderr
    found = cli.json("replay", first.folder, *to, "--protocol", "rest", "--expect", "outputs=1")
    assert found["left_out"] == {"came over grpc": 4}
    assert found["replayed"]["requests"] == ASKED - 4
    assert found["agreement"]["differences"] == []


def test_requests_without_bodies_have_those_of_their_kind_or_the_input_that_is_given(
    first: Recorded, second: Recorded, tmp_path: Path, cli: Any, photo: Path
) -> None:
    """As of a recording of which only a share has bodies, or none."""
    kinds = [each.kind for each in first.requests()[:8]]
    bare = synthetic(tmp_path / "bare", [(kind, 0.02 * n, 5.0) for n, kind in enumerate(kinds)])
    unread = Kind("tfs", "grpc", kinds[0].path, priority="default", code="overloaded")
    refused = synthetic(tmp_path / "refused", [(unread._replace(refused="deadline"), 0.0, 5.0)])
    to = (*second.doors, "--token-file", second.tokens, "--longest-gap", "0.1")
    outcome = cli("replay", bare, *to)
    assert outcome.returncode == 2
    assert f"{len(kinds)} recorded requests of {len(kinds)} have no body" in outcome.stderr
    assert "--input FILE" in outcome.stderr
    found = cli.json("replay", bare, *to, "--input", photo)
    assert found["bodies"] == {"own": 0, "alike": 0, "input": len(kinds)}
    assert found["replayed"]["in_time"] == len(kinds)
    assert found["agreement"]["recorded"] == 0
    other = synthetic(tmp_path / "other", [(kinds[0]._replace(model="other"), 0.0, 5.0)])
    outcome = cli("replay", other, *to, "--input", photo)
    assert outcome.returncode == 2
    assert "a server that has them" in outcome.stderr
    mixed = cli.json("replay", first.folder, bare, refused, *to)
    assert mixed["bodies"] == {"own": ASKED, "alike": len(kinds) + 1, "input": 0}
    assert mixed["replayed"]["in_time"] == ASKED - 1 + len(kinds) + 1
    assert mixed["recorded"]["refused"] == {"overloaded": 1}
    outcome = cli("replay", bare, *to, "--input", photo, "--expect", "labels=99%")
    assert outcome.returncode == 2
    assert "needs recorded answers" in outcome.stderr


def test_nothing_answered_is_a_failure_and_nobody_listening_an_error(
    first: Recorded, second: Recorded, cli: Any
) -> None:
    outcome = cli("replay", first.folder, *second.doors)  # without a token
    assert outcome.returncode == 8
    assert "no request was answered in time" in " ".join(outcome.stdout.split())
    nobody = free_ports(1)[0]
    to = ("--against", f"127.0.0.1:{nobody}", "--protocol", "grpc")
    outcome = cli("replay", first.folder, *to)
    assert outcome.returncode == 5
    assert "nothing answers at" in outcome.stderr


def test_a_recording_is_shown_and_printed(first: Recorded, cli: Any) -> None:
    outcome = cli("replay", first.folder)
    assert outcome.returncode == 0
    assert f"{ASKED} requests in" in outcome.stdout
    assert f"{ASKED} have their bodies" in outcome.stdout
    found = cli.json("replay", first.folder)
    assert found["by_transport"] == {"rest": 10, "grpc": 4}
    assert found["by_token"] == {"web": 10, "batch": 4}
    assert found["by_code"] == {"ok": ASKED - 1, "invalid_input": 1}
    lines = cli("replay", first.folder, "--print", "--protocol", "grpc").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 4
    assert {row["model"] for row in rows} == {"m"}
    assert all(row["total_ms"] > 0 and "body" not in row for row in rows)
    part = cli.json("replay", first.folder, "--protocol", "grpc", "--model", "m")
    assert (part["requests"], part["by_transport"]) == (4, {"grpc": 4})
    lines = cli("replay", first.folder, "--print", "--bodies").stdout.splitlines()
    bodies = [base64.b64decode(json.loads(line)["body"]) for line in lines]
    assert b"{" in bodies


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--against", "127.0.0.1:1", "--expect", "labels=high"), "'labels=high'"),
        (("--against", "127.0.0.1:1", "--expect", "beauty=1"), "'beauty=1'"),
        (("--against", "127.0.0.1:1", "--speed", "0"), "--speed must be"),
        (("--against", "127.0.0.1:1", "--model", "x"), "no recorded request is for the model x"),
        (("--against", "127.0.0.1:1", "--from", "9999"), "no recorded request is left"),
        (("--against", "127.0.0.1:1", "--against", "127.0.0.1:2"), "two endpoints of grpc"),
        (("--against", "echo/m@1", "--against", "127.0.0.1:2"), "a server of its own"),
        (("--against", "echo/m@1", "--version", "3"), "--version is for an endpoint"),
        (("--against", "echo/m@9"), "m"),
        (("--against", "gpu-host"), "an endpoint has a port: --against gpu-host:8500"),
        (("--model", "x"), "no recorded request is for the model x"),
        (("--print", "--model", "x"), "no recorded request is for the model x"),
        (("--from", "9999"), "no recorded request is left"),
        (("--expect", "labels=99%"), "--expect is for a replay"),
        (("--print", "--expect", "labels=99%"), "--expect is for a replay"),
        (("--speed", "2"), "--speed is for a replay"),
        (("--token-file", "token"), "--token-file is for a replay"),
        (("--bodies",), "--bodies is for --print"),
        (("--print", "--against", "127.0.0.1:1"), "give one"),
    ],
)
def test_wrong_calls_name_the_value(
    tmp_path: Path, cli: Any, args: tuple[str, ...], told: str
) -> None:
    kind = Kind("tfs", "grpc", "/tensorflow.serving.PredictionService/Predict", "m", 1, code="ok")
    folder = synthetic(tmp_path / "records", [(kind, 0.0, 0.0)])
    outcome = cli("replay", folder, *args)
    assert outcome.returncode == 2
    assert told in outcome.stderr


def test_a_version_of_one_model_takes_no_requests_for_several(
    tmp_path: Path, cli: Any, export: Any
) -> None:
    export()
    kind = Kind("tfs", "grpc", "/tensorflow.serving.PredictionService/Predict", "m", 1, code="ok")
    kinds = [(kind, 0.0, 1.0), (kind._replace(model="other"), 0.1, 1.0)]
    outcome = cli("replay", synthetic(tmp_path / "r", kinds), "--against", "echo/m@1")
    assert outcome.returncode == 2
    assert "2 models" in outcome.stderr
    assert "m, other" in outcome.stderr


def test_what_a_version_refuses_that_the_recorded_one_answered_is_told_in_its_words(
    tmp_path: Path, second: Recorded, cli: Any
) -> None:
    """As of a version with other signatures, over both transports."""
    message = serving_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "m", "gone"
    rest = json.dumps({"inputs": ["x"], "signature_name": "gone"}).encode()
    samples = [
        (Kind("tfs", "grpc", PREDICT, "m", 1, "gone", code="ok"), message.SerializeToString()),
        (Kind("tfs", "rest", "/v1/models/m:predict", "m", 1, "gone", code="ok"), rest),
    ]
    folder = sampled(tmp_path / "r", [(kind, SampledBytes(b, answer=b"{}")) for kind, b in samples])
    to = (*second.doors, "--token-file", second.tokens)
    found = cli.json("replay", folder, *to, code=8)
    assert sum(each["requests"] for each in found["errors"]) == 2
    assert all("gone" in each["error"] for each in found["errors"])
    outcome = cli("replay", folder, *to)
    assert outcome.returncode == 8
    assert "with a recorded answer: " in outcome.stdout
    assert "gone" in outcome.stdout


def test_a_recording_with_more_bodies_than_are_kept_in_memory_is_replayed(
    tmp_path: Path, second: Recorded
) -> None:
    """Bodies are read as they are sent, also from files that are removed meanwhile."""
    body = json.dumps({"inputs": ["x" * 2**20]}).encode()
    kind = Kind("tfs", "rest", "/v1/models/m:predict", "m", 1, code="ok")
    folder = sampled(tmp_path / "r", [(kind, SampledBytes(body, answer=b"{}"))] * 24, 2**26)
    recording = Recording.open([folder])
    traffic = select(recording, summary_of(recording), Selection())
    for file in folder.iterdir():
        file.unlink()
    asked = given([second.server.endpoint("rest")], {"token": WEB}, Renaming(), {})
    tracemalloc.start()
    try:
        result = Replay().run(traffic, asked)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result.tally.in_time, result.problems) == (24, [])
    assert peak < 12 * 2**20


def test_an_endpoint_that_requires_a_certificate_is_replayed_to(
    first: Recorded, tmp_path: Path, cli: Any
) -> None:
    files = certificate_files(tmp_path)
    flags = (f"--tls-cert={files['cert']}", f"--tls-key={files['key']}")
    with ExitStack() as stack:
        (tmp_path / "tls").mkdir()
        found = serve(stack, tmp_path / "tls", *flags, f"--tls-client-ca={files['ca']}")
        to = (
            *("--against", found.server.endpoint("rest")),
            *("--against", f"grpcs://{found.server.grpc}"),
            *("--token-file", found.tokens, "--tls-ca", files["ca"]),
        )
        own = ("--tls-cert", files["client"], "--tls-key", files["client_key"])
        replayed = cli.json("replay", first.folder, *to, *own, "--expect", "outputs=100%")
        assert replayed["replayed"]["in_time"] == ASKED - 1
        assert cli("replay", first.folder, *to).returncode == 8


def certificate_files(folder: Path) -> dict[str, Path]:
    """The files of an authority, of a server at 127.0.0.1, and of a client."""
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client.example")
    files = {name: folder / name for name in ("ca", "cert", "key", "client", "client_key")}
    authority.cert_pem.write_to_path(files["ca"])
    for leaf, cert, key in ((server, "cert", "key"), (client, "client", "client_key")):
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(files[cert], append=True)
        leaf.private_key_pem.write_to_path(files[key])
    return files
