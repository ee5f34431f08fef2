"""A version is held to its certificate as it is loaded, and while it is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import RunsOn
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase
from mlserve.certificate.verdict import CaseVerdict
from mlserve.errors import ModelLoadFailed, Unavailable
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.server.models import standing as module
from mlserve.server.models.loading import open_version
from mlserve.server.models.standing import CertificateState, Standing
from mlserve.server.models.versions import ModelSpec
from mlserve.store import VersionPolicy
from tests.harness.ladder import BACKEND, certify, write_table_rungs

CERTIFICATE = Certificate("numpy", 3, 1e-4, 0.0, None, None, "a test")
CASES = tuple(GoldenCase(name, "s", {}, {}, {}, None) for name in ("a", "b", "c"))


def verdict(name: str, problem: str = "") -> CaseVerdict:
    return CaseVerdict(name, 0.5 if problem else 0.0, "y", is_label_changed=False, problem=problem)


def standing(on_drift: OnDrift = OnDrift.REFUSE, cases: Sequence[GoldenCase] = CASES) -> Standing:
    return Standing(RunsOn("Runtime 1", "fp32", "CPU"), CERTIFICATE, cases, on_drift)


def asked(each: Standing, *problems: str) -> list[str]:
    """Ask as many questions as there are problems, and return their names."""
    names = []
    for problem in problems:
        case = each.next_case()
        assert case is not None
        names.append(case.name)
        each.note(verdict(case.name, problem))
    return names


def test_every_golden_input_is_asked_once_and_then_each_in_turn() -> None:
    each = standing()
    assert each.state is CertificateState.CHECKING
    assert asked(each, "", "") == ["a", "b"]
    assert (each.state, each.is_asked) == (CertificateState.CHECKING, False)
    assert asked(each, "") == ["c"]
    assert (each.state, each.is_asked) == (CertificateState.HOLDS, True)
    assert asked(each, "", "", "", "") == ["a", "b", "c", "a"]


def test_a_wrong_answer_is_drift_until_the_same_question_is_answered_right() -> None:
    each = standing()
    asked(each, "", "", "")
    assert asked(each, "y differs by 0.5") == ["a"]
    assert each.state is CertificateState.DRIFTED
    assert each.served_by == "Runtime 1; fp32; CPU; certificate=drifted"
    assert each.fault == (
        "1 of 3 golden inputs are answered wrong here (Runtime 1; fp32; CPU): a: y differs by 0.5"
    )
    refusal = each.refusal("version 1 of m")
    assert isinstance(refusal, Unavailable)
    assert "--on-drift serve" in (refusal.hint or "")
    assert asked(each, "") == ["a"], "the wrong one is asked again first"
    assert (each.state, each.refusal("m")) == (CertificateState.HOLDS, None)


def test_how_well_they_are_answered_is_told_in_words() -> None:
    each = standing()
    asked(each, "", "")
    assert each.progress == (
        "2 of 2 golden inputs are answered right so far (3 in all), largest difference 0 of "
        "0.0001 allowed"
    )
    asked(each, "y differs by 0.5")
    assert each.progress == (
        "2 of 3 golden inputs are answered right, largest difference 0.5 of 0.0001 allowed"
    )


def test_a_ladder_names_no_tolerance_as_each_rung_has_its_own() -> None:
    rungs = {case.name: (place, CERTIFICATE) for place, case in enumerate(CASES)}
    each = replace(standing(), rungs=rungs)
    asked(each, "", "", "")
    assert each.progress == "3 of 3 golden inputs are answered right, largest difference 0"


def test_drift_is_served_where_that_was_asked_for() -> None:
    each = standing(OnDrift.SERVE)
    asked(each, "y differs by 0.5")
    assert (each.state, each.refusal("m")) == (CertificateState.DRIFTED, None)


def test_without_golden_inputs_nothing_is_asked() -> None:
    each = Standing(RunsOn("Runtime 1", "fp32", "CPU"))
    assert (each.state, each.next_case(), each.progress) == (CertificateState.NONE, None, "")


def spec(store: Path, on_drift: OnDrift | None = None) -> ModelSpec:
    options = LoadOptions(on_drift=on_drift, threads=1)
    base_path = store / BACKEND / "table"
    backend = plugins.backend(BACKEND)
    return ModelSpec(backend, "table", base_path, VersionPolicy(), options, 0.0)


@pytest.mark.framework
def test_a_right_version_is_loaded_and_its_first_inputs_are_asked(tmp_path: Path) -> None:
    write_table_rungs(tmp_path)
    loaded = open_version(spec(tmp_path), 1)
    assert loaded.standing.state is CertificateState.HOLDS
    assert loaded.standing.difference < 1e-6
    loaded.runner.close()


@pytest.mark.framework
def test_a_version_with_other_answers_is_not_loaded(tmp_path: Path) -> None:
    write_table_rungs(tmp_path, golden_scale=3.0)
    with pytest.raises(ModelLoadFailed) as caught:
        open_version(spec(tmp_path), 1)
    assert "does not give the answers of its certificate" in caught.value.message
    assert "row: probabilities differs by 0.67" in caught.value.message


def test_wrong_answers_to_many_golden_inputs_are_not_asked_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three thousand of 0.2 s would keep a version, and the one after it, waiting ten minutes."""
    now, many = [0.0], standing(OnDrift.SERVE, CASES * 1000)

    def wrong(_: object, case: GoldenCase, __: object) -> CaseVerdict:
        now[0] += 2.0
        return verdict(case.name, "differs by 1")

    monkeypatch.setattr(module, "read", lambda *_: many)
    monkeypatch.setattr(module, "case_verdict", wrong)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    source, artifact = SimpleNamespace(model="m"), SimpleNamespace(version=1)
    found = module.begin(*cast("tuple[Any, Any, Any]", (source, artifact, None)), 1.0)
    assert now == [4.0], "of the five seconds, a third question would take more"
    assert found.state is CertificateState.DRIFTED


@pytest.mark.framework
def test_it_is_loaded_all_the_same_with_on_drift_serve(tmp_path: Path) -> None:
    write_table_rungs(tmp_path, golden_scale=3.0)
    loaded = open_version(spec(tmp_path, OnDrift.SERVE), 1)
    assert loaded.standing.state is CertificateState.DRIFTED
    assert loaded.fault is None
    loaded.runner.close()


@pytest.mark.framework
def test_damaged_golden_inputs_are_named(tmp_path: Path) -> None:
    write_table_rungs(tmp_path)
    artifact = Artifact.open(tmp_path / BACKEND / "table", "table", 1)
    file = artifact.path / "golden" / "tensors.npz"
    file.write_bytes(file.read_bytes()[:50])
    recorded_again(artifact)
    with pytest.raises(ModelLoadFailed, match=r"the golden inputs in .* cannot be read"):
        open_version(spec(tmp_path), 1)


def recorded_again(artifact: Artifact) -> None:
    """List the files of a version as they are now."""
    from mlserve.artifact import MANIFEST_NAME
    from mlserve.digests import digests_of
    from tests.harness.ladder import mark

    mark(artifact, files=digests_of(artifact.path, without=MANIFEST_NAME))


@pytest.mark.framework
def test_a_failing_question_is_a_problem_and_not_an_error(tmp_path: Path) -> None:
    write_table_rungs(tmp_path)
    artifact = Artifact.open(tmp_path / BACKEND / "table", "table", 1)
    wrong: dict[str, Any] = {"x": np.zeros((1, 7), np.float32)}
    case = GoldenCase("wide", "serving_default", wrong, wrong, wrong, None)
    for file in (artifact.path / "golden").iterdir():
        file.unlink()
    (artifact.path / "golden").rmdir()
    certify(artifact, 1e-4, [replace(case)])
    with pytest.raises(ModelLoadFailed, match="1 of 1 golden inputs are answered wrong here"):
        open_version(spec(tmp_path), 1)
