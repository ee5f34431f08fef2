"""What `--preprocessor` names: a file, a folder with labels beside it, or a library's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlserve import plugins
from mlserve.errors import ExportError, PluginError, UsageError
from mlserve.preprocessors.choice import preprocessor

VIT = {"image_processor_type": "ViTImageProcessor"}


def written(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_a_file_and_its_folder_are_the_same_and_labels_stand_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path / "preprocessor_config.json", VIT)
    assert preprocessor(str(tmp_path)) == preprocessor(str(path))
    assert preprocessor(str(path)).labels is None
    config = written(tmp_path / "config.json", {"model_type": "vit"})
    assert preprocessor(str(path)).labels is None
    written(config, {"id2label": {"1": "dog", "0": "cat"}})
    found = preprocessor(str(path))
    assert found.labels == ("cat", "dog")
    assert found.labels_name == f"id2label in {config}"


def test_the_file_of_timm_is_known_by_its_keys(tmp_path: Path) -> None:
    config = written(tmp_path / "config.json", {"pretrained_cfg": {"crop_pct": 0.9}})
    assert preprocessor(str(tmp_path)).pixels.crop == 0.9
    assert preprocessor(str(config)).pixels.input == (224, 224)


@pytest.mark.parametrize("config", ["resnet50", None, [1]])
def test_what_is_not_a_configuration_of_timm_is_named(tmp_path: Path, config: Any) -> None:
    path = written(tmp_path / "config.json", {"pretrained_cfg": config})
    with pytest.raises(ExportError, match=r"pretrained_cfg in .* not an object"):
        preprocessor(str(path))


def test_a_deviation_that_is_0_as_a_float32_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "config.json", {"pretrained_cfg": {"std": [1e-39] * 3}})
    with pytest.raises(ExportError, match=r"std in .* is \[1e-39.*: not above 0"):
        preprocessor(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds JSON, but not an object"),
        ("\xff", "cannot be read as JSON"),
        ("[" * 10**5, "cannot be read as JSON: it is nested too deep"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(text, "latin-1")
    with pytest.raises(ExportError, match=f"preprocessor_config.json {message}"):
        preprocessor(str(path))


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--preprocessor nowhere: there is no such file"):
        preprocessor("nowhere")
    with pytest.raises(UsageError, match="--preprocessor is empty"):
        preprocessor("")
    with pytest.raises(UsageError, match=r"has no preprocessor_config\.json"):
        preprocessor(str(tmp_path))
    monkeypatch.setattr(plugins, "model_sources", list)
    with pytest.raises(PluginError, match="timm:x needs a plugin that can ask timm") as refused:
        preprocessor("timm:x")
    assert "mlserve-torch" in str(refused.value.hint) or "plugins/torch" in str(refused.value.hint)
