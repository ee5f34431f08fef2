"""`mlserve up --auto`: which artifact is taken, and why the others lost."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mlserve.artifact import Artifact
from mlserve.certificate.verdict import CaseVerdict, Verdict
from mlserve.cli.app import app
from mlserve.errors import ExitCode, ModelLoadFailed
from mlserve.export import export
from mlserve.inventory import ModelFolder, StoredVersion, VersionState
from mlserve.precision import Precision
from mlserve.sources import ModelRequest
from mlserve.store import Store
from mlserve.tune.fastest import Contender, Fastest, _latest, _winner
from mlserve.tune.golden import problem_text
from mlserve.tune.judge import Figures, Sample
from tests.harness import rounding

RIGHT = Verdict((CaseVerdict("a.png", 1e-6, "scores", is_label_changed=False, problem=""),))
WRONG = Verdict(
    (CaseVerdict("a.png", 0.3, "scores", is_label_changed=True, problem="scores differs by 0.3"),)
)


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with rounding.installed(tmp_path / "site", monkeypatch):
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        file = io.BytesIO()
        colour = tuple(rng.permutation([20, 90, 220]).tolist())
        Image.new("RGB", (9, 9), colour).save(file, "PNG")
        (folder / f"{number}.png").write_bytes(file.getvalue())
    return folder


def exported(precision: Precision, photos: Path, model: str = "fine") -> Artifact:
    calibration = photos if precision is Precision.INT8 else None
    request = ModelRequest(model, precision=precision, calibration=calibration)
    return export(request, rounding.NAME)


@pytest.mark.server
def test_the_fastest_whose_certificate_holds_is_served(
    cli: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 takes longer, bf16 gives other answers on this machine, and a runtime is absent."""
    for precision in (Precision.FP32, Precision.INT8, Precision.BF16):
        exported(precision, photos)
    absent = Store().base_path("absent", "fine")
    absent.parent.mkdir(parents=True)
    Store().base_path(rounding.NAME, "fine").rename(absent)  # a backend that is not installed
    for precision in (Precision.FP32, Precision.INT8, Precision.BF16):
        exported(precision, photos)
    monkeypatch.setenv(rounding.DRIFTING, "bf16")

    found = cli.json("up", "--auto", "--model", "fine", "--grpc-port", "0", "--rest-port", "0")

    assert (found["backend"], found["expected"]) == (rounding.NAME, [2])
    by_name = {each["artifact"]: each for each in found["auto"]}
    assert [name for name, each in by_name.items() if each["taken"]] == ["rounding/fine@2"]
    assert "the one taken gives" in by_name["rounding/fine@1"]["reason"]
    drifted = by_name["rounding/fine@3"]["reason"]
    assert drifted.startswith("its certificate does not hold: ")
    assert "scores differs by 0." in drifted
    assert "absent" in by_name["absent/fine@1"]["reason"]
    again = cli("up", "--auto", "--model", "fine")
    assert again.returncode == 0, again.stderr
    assert "fine is served already, by rounding" in again.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--version", "1"], "--auto chooses what to serve, and --version does too"),
        (["--path", "x"], "--auto chooses what to serve, and --path does too"),
        (["name"], "--auto chooses what to serve, and the name of a server does too"),
        (["--launcher", "docker"], "--launcher docker starts another"),
    ],
)
def test_what_leaves_no_choice_is_refused(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["up", "--auto", *options], catch_exceptions=False)
    assert done.exit_code == ExitCode.USAGE
    assert message in done.stderr


def contender(
    rate: float, golden: Verdict | None = RIGHT, version: int = 1, failure: str = ""
) -> Contender:
    artifact = Artifact(Path(f"/s/b/m/{version}"), "m", version, None)
    version_of = StoredVersion("b", artifact, 1, datetime.now(UTC), VersionState.WHOLE)
    if failure:
        return Contender(version_of, failure=failure)
    figures = Figures(rate, 1000 / rate, 1000 / rate)
    return Contender(version_of, Sample(figures, figures, None, 1.0, golden))


def test_wrong_answers_never_win_however_fast() -> None:
    slow, fast, bare = contender(10), contender(99, WRONG, 2), contender(50, None, 3)
    gone = contender(0, failure="x is not installed", version=4)
    found = Fastest([slow, fast, bare, gone], _winner([slow, fast, bare, gone]))
    assert found.winner is slow
    assert [row[-1] for row in found.rows()] == [
        "taken: the fastest whose certificate holds here",
        f"its certificate does not hold: {problem_text(WRONG)}",
        "it has no certificate: export it again",
        "x is not installed",
    ]


def test_a_winner_that_was_exported_below_the_usual_agreement_is_warned_of(photos: Path) -> None:
    artifact = exported(Precision.BF16, photos)
    assert artifact.manifest is not None
    for share, warning in ((0.99, ""), (0.658, "65.8%")):
        agreement = {**artifact.manifest.agreement, "share": share}
        manifest = replace(artifact.manifest, agreement=agreement)
        each = contender(10)
        version = replace(each.version, artifact=replace(artifact, manifest=manifest))
        each = replace(each, version=version)
        reason = Fastest([each], each).reason(each)
        assert ("WARNING: it agreed with its reference on only" in reason) == bool(warning)
        assert warning in reason


def test_of_two_that_are_as_fast_the_nearer_to_the_reference_wins() -> None:
    far = Verdict((CaseVerdict("a", 1e-2, "scores", is_label_changed=False, problem=""),))
    near, other, slow = contender(100), contender(101, far, 2), contender(50, RIGHT, 3)
    found = Fastest([other, near, slow], _winner([other, near, slow]))
    assert found.winner is near
    assert found.reason(other) == "as fast, and farther from the reference"
    assert found.reason(slow) == "slower: the one taken gives 100% more answers/s"


@pytest.mark.slow
def test_the_latest_version_of_each_precision_takes_part(photos: Path) -> None:
    for precision in (Precision.FP32, Precision.BF16, Precision.FP32):
        exported(precision, photos)
    folder = ModelFolder(rounding.NAME, "fine", Store().base_path(rounding.NAME, "fine"))
    assert [each.artifact.version for each in _latest(folder)] == [2, 3]


def test_nothing_is_served_where_no_certificate_holds() -> None:
    found = [contender(10, WRONG), contender(20, None, 2)]
    with pytest.raises(ModelLoadFailed, match="no artifact gives the answers") as raised:
        Fastest(found, _winner(found)).require_winner()
    assert "b/m@1: its certificate does not hold" in raised.value.message
    assert "--on-drift serve" in (raised.value.hint or "")
