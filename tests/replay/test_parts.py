"""The parts of a replay by themselves: moments, waits, paths, messages, labels, distances."""

from __future__ import annotations

import errno
import json
import math
import struct
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlserve.bench.slo import Slo
from mlserve.bench.tally import LATE, LEFT, Tally
from mlserve.client.endpoint import Connection
from mlserve.errors import NotFound, UsageError
from mlserve.recording.records import (
    Kind,
    OpenFile,
    RecordedRequest,
    Sampled,
    SampledBytes,
    StoredBytes,
)
from mlserve.replay.agreement import (
    Agreement,
    Difference,
    agreement,
    distance_of,
    labels_of,
    values_of,
)
from mlserve.replay.asking import Asked
from mlserve.replay.bodies import Bodies, Origin, Renaming, require_bodies
from mlserve.replay.expectations import Expectations
from mlserve.replay.paths import model_asked, path_for, verb_of
from mlserve.replay.selection import Selection, Traffic, recorded_tally
from mlserve.replay.sending import Answers, Sender, Waits
from mlserve.wire.proto import inference_pb2, serving_pb2

PREDICT = "/tensorflow.serving.PredictionService/Predict"
REST = Kind("tfs", "rest", "/ml/v1/models/m:predict", "m", 1, code="ok")
GRPC = Kind("tfs", "grpc", PREDICT, "m", 1, code="ok")


def recorded(
    kind: Kind = REST,
    at: float = 0.0,
    timeout: float = 0.0,
    seconds: float = 0.1,
    sample: Sampled | None = None,
) -> RecordedRequest:
    return RecordedRequest(kind, at, timeout, seconds, 0.0, 0.0, 0.05, 0.0, 10, sample)


def test_requests_keep_their_moments_and_only_silence_is_cut() -> None:
    traffic = Traffic([recorded(at=at) for at in (100.0, 100.5, 100.5, 500.5, 501.0)])
    assert traffic.moments(1.0, None) == [0.0, 0.5, 0.5, 400.5, 401.0]
    assert traffic.moments(2.0, None) == [0.0, 0.25, 0.25, 200.25, 200.5]
    assert traffic.moments(2.0, 10.0) == [0.0, 0.25, 0.25, 5.25, 5.5]
    assert traffic.silence == 400.0


def test_callers_wait_as_they_did() -> None:
    left = REST._replace(code="cancelled")
    assert Waits.of(recorded(timeout=2.0), 30.0) == Waits(2.0, 2.0, is_told=True)
    assert Waits.of(recorded(), 30.0) == Waits(None, 30.0, is_told=False)
    assert Waits.of(recorded(left, seconds=0.7), 30.0) == Waits(None, 0.7, is_told=False)
    early = recorded(left, timeout=2.0, seconds=0.7)
    assert Waits.of(early, 30.0) == Waits(2.0, 0.7, is_told=False)
    at_its_deadline = recorded(left, timeout=2.0, seconds=1.99)
    assert Waits.of(at_its_deadline, 30.0) == Waits(2.0, 2.0, is_told=True)


def test_what_was_recorded_is_told_in_the_terms_of_a_load() -> None:
    codes = ("ok", "ok", "cancelled", "overloaded", "deadline_exceeded", "invalid_input")
    requests = [recorded(REST._replace(code=code), timeout=1.0) for code in codes]
    requests.append(recorded(timeout=1.0, seconds=1.5))
    tally = recorded_tally(requests, 2.0)
    assert (tally.requests, tally.in_time, tally.goodput) == (7, 2, 1.0)
    assert (tally.count(LATE), tally.count(LEFT)) == (1, 1)
    assert (tally.refused, tally.failed) == ({"overloaded": 1}, {"invalid_input": 1})
    assert tally.stages["run"].quantile(0.5) == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    ("path", "model", "version", "expected"),
    [
        ("/v1/models/m:predict", None, None, "/v1/models/m:predict"),
        ("/ml/v1/models/m:predict", "a b", None, "/v1/models/a%20b:predict"),
        ("/v1/models/m/versions/3:classify", None, 2, "/v1/models/m/versions/2:classify"),
        ("/v1/models/m/labels/stable:predict", None, None, "/v1/models/m/labels/stable:predict"),
        ("/v1/models/m/labels/stable:predict", None, 2, "/v1/models/m/versions/2:predict"),
        ("/v2/models/m/infer", "n", 5, "/v2/models/n/versions/5/infer"),
        ("/v2/models/m/versions/1/infer", None, None, "/v2/models/m/versions/1/infer"),
    ],
)
def test_paths_are_those_of_the_server_that_is_asked(
    path: str, model: str | None, version: int | None, expected: str
) -> None:
    assert path_for(REST._replace(path=path), model, version) == expected


def test_a_request_that_was_refused_by_its_head_names_its_model_over_rest_only() -> None:
    refused = Kind("tfs", "rest", "/v1/models/caf%C3%A9:predict", code="overloaded")
    assert (model_asked(refused), verb_of(refused)) == ("café", "predict")
    unread = Kind("tfs", "grpc", PREDICT, code="overloaded")
    assert (model_asked(unread), verb_of(unread)) == ("", "Predict")
    wanted = Selection(model="m")
    assert wanted.takes(unread, ["m"])
    assert not wanted.takes(unread, ["m", "n"])
    assert not wanted.takes(refused, ["m"])


def _sent(kind: Kind, message: Any, renaming: Renaming) -> bytes:
    return renaming.body(kind, message.SerializeToString())


def test_messages_name_the_model_and_version_that_are_asked() -> None:
    renaming = Renaming("n", 2)
    predict = serving_pb2.PredictRequest()
    predict.model_spec.name, predict.model_spec.version_label = "m", "stable"
    predict.model_spec.signature_name = "top_k"
    spec = serving_pb2.PredictRequest.FromString(_sent(GRPC, predict, renaming)).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("n", 2, "top_k")
    assert not spec.HasField("version_label")
    multi = serving_pb2.MultiInferenceRequest()
    multi.tasks.add().model_spec.name = "m"
    kind = GRPC._replace(path=PREDICT.replace("/Predict", "/MultiInference"))
    told = serving_pb2.MultiInferenceRequest.FromString(_sent(kind, multi, renaming))
    assert (told.tasks[0].model_spec.name, told.tasks[0].model_spec.version.value) == ("n", 2)
    infer = inference_pb2.ModelInferRequest(model_name="m", model_version="1", id="x")
    kind = Kind("oip", "grpc", "/inference.GRPCInferenceService/ModelInfer", "m", 1)
    asked = inference_pb2.ModelInferRequest.FromString(_sent(kind, infer, renaming))
    assert (asked.model_name, asked.model_version, asked.id) == ("n", "2", "x")
    assert _sent(GRPC, predict, Renaming()) == predict.SerializeToString()


def test_heads_have_the_deadline_the_priority_and_the_token_of_their_caller() -> None:
    asked = Asked(
        "s", {"rest": Connection.to("http://127.0.0.1:1", token="first")}, tokens={"web": "w"}
    )
    kind = REST._replace(priority="critical", token="web")
    sample = SampledBytes(b"{}", {"content-encoding": "gzip", "content-type": "x/y"})
    requests = [recorded(kind, timeout=0.5, sample=sample), recorded(REST, sample=sample)]
    bodies = Bodies(Renaming())
    bodies.learn(requests)
    sender = Sender(asked, bodies, Answers())
    heads = [sender.request(number, each)[1].head for number, each in enumerate(requests)]
    for line in (
        b"POST /v1/models/m:predict HTTP/1.1",
        b"x-request-timeout-ms: 500",
        b"x-request-priority: critical",
        b"authorization: Bearer w",
        b"content-encoding: gzip",
        b"content-type: x/y",
    ):
        assert line in heads[0].split(b"\r\n")
    assert b"timeout" not in heads[1]
    assert b"priority" not in heads[1]
    assert b"authorization: Bearer first" in heads[1]


def test_bodies_are_lent_to_requests_of_the_same_kind_only() -> None:
    good, wrong = SampledBytes(b"1"), SampledBytes(b"2")
    requests = [
        recorded(REST, sample=good),
        recorded(REST._replace(code="invalid_input"), sample=wrong),
        recorded(REST),
        recorded(REST._replace(model="n", path="/v1/models/n:predict")),
    ]
    bodies = Bodies(Renaming())
    bodies.learn(requests)
    assert bodies.missing(requests) == {"rest /v1/models/n:predict": 1}
    with pytest.raises(NotFound, match="1 recorded request of 4 have no body"):
        require_bodies(bodies, requests)
    contents = [bodies.content(number, requests[number], "rest") for number in range(3)]
    assert [each.origin for each in contents] == [Origin.OWN, Origin.OWN, Origin.ALIKE]
    assert [each.recorded and each.recorded.body() for each in contents] == [b"1", b"2", b"1"]


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        ({"outputs": ["a", "b"]}, ["a", "b"]),
        ({"predictions": ["a", "b"]}, ["a", "b"]),
        ({"predictions": [{"labels": ["a", "b"], "scores": [0.2, 0.8]}]}, ["b"]),
        ({"outputs": {"labels": [["a", "b"]], "scores": [[0.9, 0.1]]}}, ["a"]),
        ({"labels": [["a"], ["b"]], "scores": [[1.0], [1.0]], "indices": [[0], [1]]}, ["a", "b"]),
        ({"results": [[["a", 0.1], ["b", 0.9]], [["a", 1.0]]]}, ["b", "a"]),
        ({"predictions": [{"b64": "c29ycmVs"}]}, ["sorrel"]),
        ({"predictions": [[0.1, 0.9]]}, None),
        ({"output_0": ["a"], "other": ["b"]}, ["a"]),
        ({"x": ["a"], "other": ["b"]}, None),
        ({}, None),
        ([], None),
    ],
)
def test_labels_are_found_in_answers_of_every_form(data: Any, labels: list[str] | None) -> None:
    assert labels_of(data) == labels


def test_answers_are_compared_by_what_they_say_not_by_their_version() -> None:
    def infer(version: str, value: float) -> bytes:
        output = {"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1.0, value]}
        answer = {"model_name": "m", "model_version": version, "outputs": [output]}
        return json.dumps(answer).encode()

    kind = Kind("oip", "rest", "/v2/models/m/infer", "m", 1, code="ok")
    assert values_of(kind, {}, infer("1", 2.0)) == {"y": [[1.0, 2.0]]}

    def found(value: float) -> Agreement:
        sample = SampledBytes(b"{}", answer=infer("1", 2.0))
        return agreement([recorded(kind, sample=sample)], {0: ({}, infer("2", value))})

    assert found(2.0).output_share == found(2.0001).output_share == 1.0
    assert (found(3.0).output_share, found(3.0).largest) == (0.0, 0.5)
    assert found(3.0).label_share is None
    garbage = SampledBytes(b"{}", answer=b"garbage")
    unread = agreement([recorded(kind, sample=garbage)], {0: ({}, infer("2", 1.0))})
    assert (unread.compared, unread.unreadable, unread.output_share) == (0, 1, None)


@pytest.mark.parametrize(
    ("before", "now", "distance"),
    [
        (1.0, 1.5, 0.5),
        (10, 15, 0.5),
        (math.nan, math.nan, 0.0),
        (math.nan, 1.0, math.inf),
        ([1, 2], [1], math.inf),
        ({"a": 1}, {"b": 1}, math.inf),
        ("a", "b", math.inf),
        (True, 1, 0.0),
        ([[1.0], [2.0]], [[1.0], [4.0]], 1.0),
        (math.inf, math.inf, 0.0),
    ],
)
def test_distances(before: Any, now: Any, distance: float) -> None:
    assert distance_of(before, now) == distance


def test_expectations_are_judged() -> None:
    expected = Expectations.parse("labels=99%, in-time=0.5,p50=1s")
    assert expected.shares == {"labels": 0.99, "in-time": 0.5}
    assert str(expected.slo) == str(Slo.parse("p50=1s"))
    tally = Tally(seconds=1.0)
    for kind, count in (("", 3), ("overloaded", 1)):
        for _ in range(count):
            tally.latencies[kind].add(0.1)
    same = Agreement(recorded=1, compared=1, labelled=1)
    assert [each.is_held for each in expected.judge(tally, same)] == [True, True, True]
    nothing = expected.judge(tally, Agreement(recorded=1))
    assert [each.is_held for each in nothing] == [False, True, True]
    assert "nothing to judge by" in str(nothing[0])
    for wrong in ("labels", "labels=101%", "labels=2", "p50", "=1", ""):
        with pytest.raises(UsageError):
            Expectations.parse(wrong)


def test_tallies_of_nothing_are_no_fault() -> None:
    held = Expectations.parse("in-time=0.5").judge(Tally(), Agreement())
    assert [each.is_held for each in held] == [False]
    headers: Mapping[str, str] = {}
    assert agreement([recorded()], {0: (headers, b"")}).recorded == 0


def test_a_lent_body_is_sent_to_the_path_that_was_asked() -> None:
    """Also if it is that of a request for another version."""
    first, second = (REST._replace(path=f"/v1/models/m/versions/{n}:predict") for n in (1, 2))
    requests = [recorded(first, sample=SampledBytes(b"1")), recorded(second._replace(version=2))]
    asked = Asked("s", {"rest": Connection.to("http://127.0.0.1:1")})
    sender = Sender(asked, Bodies(Renaming()), Answers())
    sender.bodies.learn(requests)
    sent = [sender.request(number, each)[1] for number, each in enumerate(requests)]
    assert [each.content() for each in sent] == [b"1", b"1"]
    assert b"/v1/models/m/versions/2:predict" in sent[1].head


def test_the_system_is_told_of_bodies_before_they_are_read(tmp_path: Path) -> None:
    """So that the thread that sends does not wait for a disk."""
    path = tmp_path / "bodies"
    path.write_bytes(b"".join(b"%03d" % number for number in range(100)))
    said: list[tuple[str, int]] = []

    class Watched(OpenFile):
        def fetch(self, at: int, size: int) -> None:
            super().fetch(at, size)
            said.append(("fetch", at // size))

        def read(self, at: int, size: int) -> bytes:
            said.append(("read", at // size))
            return super().read(at, size)

    with path.open("rb") as opened:
        file = Watched(opened.fileno())
    stored = [StoredBytes(file, 3 * number, 3, {}, 0, None, {}, "") for number in range(100)]
    requests = [recorded(sample=each) for each in stored]
    asked = Asked("s", {"rest": Connection.to("http://127.0.0.1:1")})
    sender = Sender(asked, Bodies(Renaming()), Answers())
    sender.bodies.learn(requests)
    sent = [sender.request(number, each)[1] for number, each in enumerate(requests)]
    assert [each.content() for each in sent] == [b"%03d" % number for number in range(100)]
    assert sender.unread == 0
    for number in range(1, 100):
        assert said.index(("fetch", number)) < said.index(("read", max(0, number - 31)))


def test_a_label_that_changed_is_told_however_many_rows_an_answer_has() -> None:
    rows = [f"label of the row {number}" for number in range(40)]
    changed = [*rows[:-1], "another label"]
    sample = SampledBytes(b"{}", answer=json.dumps({"predictions": rows}).encode())
    now: Mapping[str, str] = {}
    found = agreement(
        [recorded(sample=sample)], {0: (now, json.dumps({"predictions": changed}).encode())}
    )
    assert (found.label_share, len(found.label_changes)) == (0.0, 1)
    [told] = found.label_changes
    assert (told.before, told.now) == ("label of the row 39", "another label")


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b'{"predictions": 5}',
        b'{"predictions": {"a": 1}}',
        b'{"predictions": [[1e400]]}',
        b'{"predictions": [' + b"9" * 400 + b"]}",
        b"[" * 100_000,
        b'{"outputs": [{"name": "y", "shape": ["a"], "data": [1]}]}',
        b'{"outputs": [5]}',
        b"",
    ],
)
def test_an_answer_that_says_nothing_now_differs_and_ends_nothing(body: bytes) -> None:
    for kind in (REST, Kind("oip", "rest", "/v2/models/m/infer", "m", 1, code="ok")):
        sample = SampledBytes(b"{}", answer=b'{"predictions": ["sorrel"]}')
        found = agreement([recorded(kind, sample=sample)], {0: ({}, body)})
        assert (found.compared, found.unreadable) == (1, 0)
        assert (found.output_share, found.label_share) == (0.0, 0.0)
        json.dumps(found.to_json(), allow_nan=False)


def test_a_message_that_cannot_be_read_ends_nothing() -> None:
    classify = GRPC._replace(path=PREDICT.replace("/Predict", "/Classify"))
    for kind in (GRPC, classify, GRPC._replace(path="/x/Unknown", api="oip")):
        sample = SampledBytes(b"", answer=b"\xff\xff\xff")
        found = agreement([recorded(kind, sample=sample)], {0: ({}, b"\xff\xff")})
        assert (found.compared, found.unreadable) == (0, 1)


def test_recorded_errors_have_the_kind_that_their_callers_saw() -> None:
    """A server says more of an error than its status does, by which a replay counts it."""
    codes = ("not_an_image", "input_too_large", "not_allowed", "not_found", "unavailable")
    kinds = [kind._replace(code=code) for kind in (REST, GRPC) for code in codes]
    tally = recorded_tally([recorded(kind) for kind in kinds], 1.0)
    assert tally.refused == {"unavailable": 2}
    assert tally.failed == {
        "not_an_image": 1,
        "input_too_large": 1,
        "invalid_input": 2,
        "access_denied": 2,
        "not_found": 2,
    }


def test_what_a_hostile_recording_says_ends_no_head() -> None:
    """Its file may be of somebody who wants the token of who replays it, or another request."""
    evil = "x HTTP/1.1\r\nx-evil: y\r\n\r\nGET /"
    asked = Asked("s", {"rest": Connection.to("http://127.0.0.1:1"), "grpc": Connection.to("h:1")})
    sender = Sender(asked, Bodies(Renaming()), Answers())
    kinds = [
        REST._replace(path=f"/v1/models/{evil}:predict"),
        REST._replace(path=evil),
        REST._replace(priority=evil),
        REST._replace(token=evil),
        REST._replace(path="/v1/models/\ud800:predict".encode(errors="replace").decode()),
        GRPC._replace(path=evil, priority=evil),
    ]
    requests = [recorded(kind, sample=SampledBytes(b"{}")) for kind in kinds]
    sender.bodies.learn(requests)
    for number, each in enumerate(requests):
        head = sender.request(number, each)[1].head
        assert b"evil: y" not in head
        assert head.count(b"\r\n\r\n") == (each.kind.transport == "rest")


def test_callers_without_a_token_that_held_have_none() -> None:
    doors = {"rest": Connection.to("http://127.0.0.1:1", token="first")}
    sender = Sender(Asked("s", doors), Bodies(Renaming()), Answers())
    denied = REST._replace(code="access_denied")
    requests = [recorded(kind, sample=SampledBytes(b"{}")) for kind in (denied, REST)]
    sender.bodies.learn(requests)
    heads = [sender.request(number, each)[1].head for number, each in enumerate(requests)]
    assert [b"authorization: Bearer first" in head for head in heads] == [False, True]


@pytest.mark.parametrize("milliseconds", [1, 57, 569, 570, 699, 700, 1234, 99_999])
def test_a_deadline_of_whole_milliseconds_stays_one(milliseconds: int) -> None:
    """It is kept as a short float, which may be a little less."""
    [kept] = struct.unpack("<f", struct.pack("<f", milliseconds / 1000))
    sender = Sender(
        Asked("s", {"rest": Connection.to("http://127.0.0.1:1")}), Bodies(Renaming()), Answers()
    )
    request = recorded(timeout=kept, sample=SampledBytes(b"{}"))
    sender.bodies.learn([request])
    head = sender.request(0, request)[1].head
    assert f"x-request-timeout-ms: {milliseconds}\r\n".encode() in head


def test_answers_are_kept_in_a_file_and_one_without_room_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers = {"content-type": "a/b", "date": "x"}

    def full(_data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Answers()) as answers:
        answers.take(3, headers, b"three")
        answers.take(5, {}, b"five!")
        assert (answers[3], answers[5]) == (({"content-type": "a/b"}, b"three"), ({}, b"five!"))
        assert (list(answers), answers.get(4), answers.problems) == ([3, 5], None, [])
        disk = SimpleNamespace(seek=lambda _at: 0, write=full)
        with monkeypatch.context() as patch:
            patch.setattr(answers, "_file", disk)
            answers.take(7, {}, b"seven")
    told = "1 answer could not be kept to compare: No space left on device"
    assert (list(answers), answers.problems) == ([3, 5], [told])


def test_what_errors_say_is_counted() -> None:
    answers = Answers()
    for text in ('{"error": "no signature x"}', '{"error": "no signature x"}', "a\nb", "[1]"):
        answers.fail(text)
    assert answers.errors.most_common(1) == [("no signature x", 2)]
    assert set(answers.errors) == {"no signature x", "a\\nb", "[1]"}
    for number in range(100):
        answers.fail(str(number))
    assert len(answers.errors) == 10


def test_shares_are_exact_and_named_once() -> None:
    for text, same, of in (("99.9%", 999, 1000), ("10%", 1, 10), ("0.7", 7, 10), ("95%", 19, 20)):
        found = Agreement(recorded=of, compared=of, labelled=of)
        found.differences = [Difference(n, 1.0, is_label_changed=True) for n in range(of - same)]
        [held] = Expectations.parse(f"labels={text}").judge(Tally(), found)
        assert held.is_held, text
    with pytest.raises(UsageError, match="names labels twice"):
        Expectations.parse("labels=99%,labels=50%")
