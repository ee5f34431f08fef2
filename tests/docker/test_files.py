"""What holds of the files of docker/ without an engine."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import mlserve

DOCKER = Path(__file__).parents[2] / "docker"
DOCKERFILES = sorted(DOCKER.glob("*/Dockerfile"))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_a_dockerfile_builds_with_the_older_builder_too(file: Path) -> None:
    text = file.read_text()
    assert not text.startswith("# syntax")
    assert "RUN --mount" not in text
    assert "<<" not in text
    assert f"ARG VERSION={mlserve.__version__}\n" in text


@pytest.fixture(scope="module")
def requirements() -> dict[str, Any]:
    return runpy.run_path(str(DOCKER / "common" / "requirements.py"))


def _names(requirements: dict[str, Any], wanted: str) -> list[str]:
    projects = requirements["local_projects"](DOCKER.parent)
    return list(requirements["third_party"]([wanted], projects))


def test_requirements_are_those_of_other_makers(requirements: dict[str, Any]) -> None:
    serving = _names(requirements, "mlserve-onnxruntime[serve]")
    assert any(line.startswith("onnxruntime>=") for line in serving)
    assert any(line.startswith("httptools>=") for line in serving)
    assert not any(line.startswith(("mlserve", "tensorflow", "tf2onnx")) for line in serving)


def test_exporting_requires_the_framework(requirements: dict[str, Any]) -> None:
    exporting = _names(requirements, "mlserve-onnxruntime[export]")
    assert any(line.startswith("tensorflow>=") for line in exporting)
    assert any(line.startswith("tf2onnx>=") for line in exporting)


def test_what_is_no_requirement_is_refused(requirements: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not a valid requirement"):
        _names(requirements, "==1")
