"""A ladder of two ONNX models: which rung answers which row, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.admission.estimates import CostKey
from mlserve.deadline import Deadline
from mlserve.digests import digests_of
from mlserve.errors import DeadlineExceeded, InvalidInput, ModelLoadFailed
from mlserve.image_pipeline.classifier import ImageClassifierRunner
from mlserve.ladder.climb import Fate
from mlserve.ladder.rungs import read_ladder
from mlserve.ladder.runner import LadderRunner
from mlserve.load_options import LadderPolicy, LoadOptions, OnDrift
from mlserve.precision import Precision
from mlserve.server.engine.work import Codec, Work, run_works
from mlserve.server.models.ladders import open_served
from mlserve.server.models.loading import Served
from mlserve.server.models.standing import CertificateState
from mlserve.server.models.versions import ModelSpec
from mlserve.server.request import StageTimes
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.store import Store, VersionPolicy
from tests.harness.ladder import (
    BACKEND,
    CLEAR,
    COLOURS,
    FLIPPED,
    MODEL,
    ROUNDED,
    TOLERANCE,
    WEIGHTS,
    label,
    margin,
    mark,
    png,
    scores,
    write_rung,
    write_rungs,
    write_table_rungs,
)

pytestmark = pytest.mark.framework

LADDER = f"{BACKEND}/{MODEL}@2,{BACKEND}/{MODEL}@1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_rungs(root, tmp_path_factory.mktemp("scratch"))
    return root


@pytest.fixture(scope="module")
def opened(store: Path) -> Iterator[Callable[[LadderPolicy], Any]]:
    """Opens the ladder with a policy, as a server does."""
    found: dict[LadderPolicy, Any] = {}

    def open_(policy: LadderPolicy) -> Any:
        if policy not in found:
            options = LoadOptions(threads=1, ladder=LADDER, ladder_policy=policy)
            base, versions = store / BACKEND / MODEL, VersionPolicy((1,))
            spec = ModelSpec(plugins.backend(BACKEND), MODEL, base, versions, options, 0.0)
            found[policy] = open_served(spec, 1)
        return found[policy].runner

    open_.loaded = found  # type: ignore[attr-defined]
    yield open_
    for loaded in found.values():
        loaded.runner.close()


@pytest.fixture
def runner(opened: Any) -> Any:
    return opened(LadderPolicy.REFUSE)


def images(*colours: Any) -> dict[str, Any]:
    array = np.empty(len(colours), object)
    array[:] = [png(colour) for colour in colours]
    return {"image": array}


class ImageCodec(Codec[Any]):
    """One image; the answer is its label."""

    def __init__(self, colour: Any) -> None:
        self.colour = colour

    def decode(self, signatures: Any, settings: ServerSettings) -> Any:
        return signatures["serving_default"], images(self.colour)

    def encode(self, served: Any, signature: Any, outputs: Any) -> Any:
        return list(outputs["output_0"])


class Patient:
    """A caller who waits for ever."""

    def has_left(self) -> bool:
        return False

    def enter(self, stage: int) -> None:
        pass

    def find_fault(self, kind: CostKey, deadline: Deadline) -> None:
        assert kind.climbs is False

    def bring_forward(self, work: Work[Any]) -> None:
        raise AssertionError


def work(runner: Any, colour: Any) -> Work[Any]:
    kind = CostKey.from_rows(MODEL, 1, "serving_default", 1)
    codec, served = ImageCodec(colour), Served(MODEL, 1, False)
    deadline, times = Deadline.after(5), StageTimes()
    return Work(codec, served, runner, DEFAULT_SETTINGS, kind, deadline, times, Patient())


def test_no_label_of_the_last_rung_is_changed(runner: Any) -> None:
    climbed = runner.climb("serving_default", images(*COLOURS), None)
    labels = [text.decode() for text in climbed.outputs["output_0"]]
    assert labels == [label(colour) for colour in COLOURS]
    assert labels != [label(colour, ROUNDED) for colour in COLOURS]
    places = [row.place for row in climbed.rows]
    assert places == [int(margin(colour) <= 2 * TOLERANCE) for colour in COLOURS]
    assert 0 < sum(places) < len(places) / 2
    assert {row.fate for row in climbed.rows} == {Fate.CERTAIN}
    assert {row.name for row in climbed.rows} == {"int8", "fp32"}


@pytest.mark.parametrize("signature", ["serving_default", "top_k", "ranking"])
def test_each_signature_answers_as_its_rung_does_alone(
    runner: Any, store: Path, signature: str
) -> None:
    asked = images(CLEAR, FLIPPED, FLIPPED, CLEAR)
    given = runner.run(signature, asked)
    for version, rows in ((2, [0, 3]), (1, [1, 2])):
        artifact = Store(store).find(BACKEND, MODEL, version)
        alone = plugins.backend(BACKEND).load(artifact, LoadOptions(threads=1))
        expected = alone.run(signature, {"image": asked["image"][rows]})
        assert set(given) == set(expected)
        for name, array in expected.items():
            assert (given[name][rows] == array).all()
            assert given[name].dtype == array.dtype
        alone.close()


def test_images_are_decoded_once(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlserve.image_pipeline import steps

    decoded = []
    monkeypatch.setattr(
        steps, "prepare", lambda *a, _real=steps.prepare: decoded.append(1) or _real(*a)
    )
    runner.run("top_k", images(CLEAR, FLIPPED))
    assert len(decoded) == 2


def test_a_bad_image_is_named_by_its_index(runner: Any) -> None:
    asked = images(CLEAR, FLIPPED)
    asked["image"][1] = b"no image"
    with pytest.raises(InvalidInput, match="1"):
        runner.run("top_k", asked)


def test_no_rows_are_an_answer_without_rungs(runner: Any) -> None:
    climbed = runner.climb("serving_default", images(), None)
    assert climbed.rows == ()
    assert len(climbed.outputs["output_0"]) == 0


def test_what_was_admitted_for_the_first_rung_stays_there(opened: Any) -> None:
    runner = opened(LadderPolicy.ANSWER)
    works = [work(runner, colour) for colour in (CLEAR, FLIPPED)]
    for each in works:
        each.only_rung = 0
    run_works(works)
    fates = [[(row.place, row.fate) for row in each.rungs] for each in works]
    assert fates == [[(0, Fate.CERTAIN)], [(0, Fate.UNCERTAIN)]]


class TestNoTimeToClimb:
    @pytest.fixture(autouse=True)
    def slow(self, opened: Any) -> Iterator[None]:
        """The last rung takes a minute, as far as both ladders know."""
        runners: list[LadderRunner] = [opened(policy) for policy in LadderPolicy]
        kept = [runner._rungs[1].times.needed for runner in runners]
        for runner in runners:
            runner._rungs[1].times.needed = lambda rows, now: 60.0  # type: ignore[method-assign]
        yield
        for runner, needed in zip(runners, kept, strict=True):
            runner._rungs[1].times.needed = needed  # type: ignore[method-assign]

    def test_uncertain_answers_are_marked(self, opened: Any) -> None:
        runner = opened(LadderPolicy.ANSWER)
        asked = images(CLEAR, FLIPPED)
        climbed = runner.climb("serving_default", asked, Deadline.after(5))
        assert [row.fate for row in climbed.rows] == [Fate.CERTAIN, Fate.UNCERTAIN]
        assert {row.place for row in climbed.rows} == {0}
        assert climbed.outputs["output_0"][1].decode() == label(FLIPPED, ROUNDED)

    def test_or_refused_with_the_reason(self, opened: Any) -> None:
        runner = opened(LadderPolicy.REFUSE)
        asked = images(CLEAR, FLIPPED)
        climbed = runner.climb("serving_default", asked, Deadline.after(5))
        assert [row.fate for row in climbed.rows] == [Fate.CERTAIN, Fate.REFUSED]
        with pytest.raises(DeadlineExceeded, match=r"within 5 s: 1 of 2 answers of int8") as caught:
            runner.run("serving_default", asked, Deadline.after(5))
        assert "needs about 60 s" in caught.value.message
        assert "--ladder-policy answer" in (caught.value.hint or "")

    def test_of_a_batch_only_the_uncertain_request_is_refused(self, opened: Any) -> None:
        runner = opened(LadderPolicy.REFUSE)
        works = [work(runner, colour) for colour in (CLEAR, FLIPPED, CLEAR)]
        assert run_works(works) == [3]
        assert [work.result for work in works] == [[b"red"], None, [b"red"]]
        assert [type(work.error) for work in works] == [type(None), DeadlineExceeded, type(None)]
        assert [[row.fate for row in work.rungs] for work in works] == [
            [Fate.CERTAIN],
            [Fate.REFUSED],
            [Fate.CERTAIN],
        ]

    def test_what_has_time_climbs(self, opened: Any) -> None:
        runner = opened(LadderPolicy.REFUSE)
        climbed = runner.climb("serving_default", images(FLIPPED), Deadline.after(61))
        assert [row.name for row in climbed.rows] == ["fp32"]


def test_the_ladder_is_described(store: Path) -> None:
    ladder = read_ladder(LADDER, Store(store), None)
    assert ladder.to_json() == {
        "rungs": [
            {"name": "int8", "version": f"{BACKEND}/{MODEL}@2"},
            {"name": "fp32", "version": f"{BACKEND}/{MODEL}@1"},
        ],
        "policy": "refuse",
    }


def test_the_rows_of_a_table_climb_by_their_probabilities(tmp_path: Path) -> None:
    write_table_rungs(tmp_path)
    options = LoadOptions(threads=1, ladder=LADDER.replace(MODEL, "table"))
    base, versions = tmp_path / BACKEND / "table", VersionPolicy((1,))
    spec = ModelSpec(plugins.backend(BACKEND), "table", base, versions, options, 0.0)
    runner: Any = open_served(spec, 1).runner
    x = np.array(COLOURS, np.float32) / 255
    climbed = runner.climb("serving_default", {"x": x}, None)
    given = climbed.outputs["probabilities"]
    assert (given.argmax(axis=1) == scores(COLOURS, WEIGHTS).argmax(axis=1)).all()
    is_top = np.array([row.place == 1 for row in climbed.rows])
    assert 0 < is_top.sum() < len(x) / 2
    for weights, rows in ((WEIGHTS, is_top), (ROUNDED, ~is_top)):
        np.testing.assert_allclose(given[rows], scores(COLOURS, weights)[rows], atol=1e-5)
    runner.close()


def test_the_last_rung_must_have_the_right_answers_of_the_others(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_rungs(store, tmp_path)
    write_rung(store, tmp_path, 3, WEIGHTS[::-1], Precision.FP32)
    options = LoadOptions(threads=1, ladder=LADDER)
    base, versions = store / BACKEND / MODEL, VersionPolicy((1,))
    spec = ModelSpec(plugins.backend(BACKEND), MODEL, base, versions, options, 0.0)
    other = replace(spec, options=replace(options, ladder=LADDER.replace("@1", "@3")))
    why = r"not rungs of one ladder: .* answers otherwise: scores differs by 1"
    with pytest.raises(ModelLoadFailed, match=why) as told:
        open_served(other, 3)
    assert f"{BACKEND}/{MODEL}@3" in told.value.message


def test_scores_beyond_one_cannot_be_on_a_ladder(tmp_path: Path) -> None:
    write_table_rungs(tmp_path, golden_scale=3.0)
    options = LoadOptions(threads=1, ladder=LADDER.replace(MODEL, "table"), on_drift=OnDrift.SERVE)
    base, versions = tmp_path / BACKEND / "table", VersionPolicy((1,))
    spec = ModelSpec(plugins.backend(BACKEND), "table", base, versions, options, 0.0)
    with pytest.raises(ModelLoadFailed, match="its probabilities go beyond 1"):
        open_served(spec, 1)


def test_each_rung_is_held_to_its_own_golden_inputs(opened: Any) -> None:
    opened(LadderPolicy.REFUSE)
    standing = opened.loaded[LadderPolicy.REFUSE].standing
    assert "int8,fp32" in str(standing.runs_on)
    asked = {case.name: standing.rung_of(case) for case in standing.cases}
    assert {name.split(":")[0]: place for name, place in asked.items()} == {"int8": 0, "fp32": 1}
    tolerances = {standing.certificate_of(case).tolerance for case in standing.cases}
    assert tolerances == {1e-4, TOLERANCE}
    assert standing.state in (CertificateState.CHECKING, CertificateState.HOLDS)


def test_a_rung_that_does_not_load_lets_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    top, _ = write_rungs(store, tmp_path)
    (top.path / "model.onnx").write_bytes(b"no model")
    mark(top, files=digests_of(top.path, without="mlserve.json"))
    closed: list[Any] = []

    def close(self: Any) -> None:
        closed.append(self)

    monkeypatch.setattr(ImageClassifierRunner, "close", close)
    options = LoadOptions(threads=1, ladder=LADDER)
    base, versions = store / BACKEND / MODEL, VersionPolicy((1,))
    spec = ModelSpec(plugins.backend(BACKEND), MODEL, base, versions, options, 0.0)
    with pytest.raises(ModelLoadFailed):
        open_served(spec, 1)
    assert len(closed) == 1
