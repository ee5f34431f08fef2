"""Which source takes which request, and that saying so imports no framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlserve_models.plugin import mlserve_model_sources

from mlserve import plugins
from mlserve.distributions import install_command
from mlserve.sources import ModelRequest


def _accepting(request: ModelRequest) -> list[str]:
    return [source.name for source in mlserve_model_sources() if source.accepts(request)]


def test_the_installed_plugin_gives_the_sources() -> None:
    names = [
        source.name
        for group in plugins.load("models").hook.mlserve_model_sources()
        for source in group
    ]
    assert names == ["tfhub", "efficientnet", "keras", "savedmodel"]


@pytest.mark.parametrize(
    ("model", "weights", "accepting"),
    [
        ("inception_v3", None, ["tfhub"]),
        ("inception_v3", "random", ["tfhub"]),
        ("inception_v3", "own.keras", ["tfhub"]),
        ("efficientnet_lite0", "own.pth", ["efficientnet"]),
        ("defects", "own.keras", ["keras"]),
        ("defects", "own.h5", ["keras"]),
        ("defects", "own.weights.h5", ["keras"]),
        ("defects", "own.tar.gz", ["savedmodel"]),
        ("defects", "own.tgz", ["savedmodel"]),
        ("defects", "own.onnx", []),
        ("defects", "random", []),
        ("defects", None, []),
    ],
)
def test_one_source_at_most_accepts(model: str, weights: str | None, accepting: list[str]) -> None:
    assert _accepting(ModelRequest(model, weights=weights)) == accepting


@pytest.mark.parametrize("name", ["model", "model.keras", "model.h5"])
def test_a_folder_is_a_savedmodel_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert _accepting(ModelRequest("defects", weights=str(tmp_path / name))) == ["savedmodel"]


@pytest.mark.server
def test_listing_the_sources_imports_no_framework() -> None:
    code = (
        "import sys; from mlserve_models.plugin import mlserve_model_sources as sources\n"
        "from mlserve.sources import ModelRequest\n"
        "assert [s.accepts(ModelRequest('x', weights='x.keras')) for s in sources()]\n"
        "print({'tensorflow', 'keras', 'numpy', 'h5py', 'tensorflow_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_source_says_how_to_install_it() -> None:
    for source in mlserve_model_sources():
        assert source.summary
        assert source.install_hint == install_command("mlserve-models[all]")
        assert source.requires
