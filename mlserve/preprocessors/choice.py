"""Find what `--preprocessor` names: a file, or a model of an installed library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlserve import plugins
from mlserve.artifact import json_of, read_plain
from mlserve.distributions import install_command
from mlserve.errors import ExportError, PluginError, UsageError
from mlserve.labels import read_labels
from mlserve.preprocessors import huggingface, timm, torchvision
from mlserve.preprocessors.preprocessor import Preprocessor

_FILE, _CONFIG = "preprocessor_config.json", "config.json"
_LARGEST = 2**24
_READERS = {"torchvision": torchvision.read, "timm": timm.read}
_GIVE = (
    f"give a {_FILE} or its folder, torchvision:MODEL or timm:MODEL, such as torchvision:resnet50"
)


def preprocessor(value: str) -> Preprocessor:
    """Return what `--preprocessor VALUE` names, with the labels that stand beside it.

    Raises UsageError if there is no such thing, PluginError without the library that knows it, and
    ExportError for what mlserve cannot do.
    """
    if not value:
        raise UsageError("--preprocessor is empty", hint=_GIVE)
    library, separator, name = value.partition(":")
    if separator and library in _READERS and not Path(value).exists():
        return _READERS[library](_of_library(library, name), value)
    path = _file(Path(value))
    data = _parsed(path)
    if timm.is_timm(data):
        return timm.read(data, str(path))
    return _with_labels_beside(path, huggingface.read(data, str(path)))


def _of_library(library: str, name: str) -> Mapping[str, Any]:
    """Return what an installed library says about a model, from the plugin that can ask it."""
    for source in plugins.model_sources():
        if library in source.preprocessors:
            return source.preprocessing_of(library, name)
    raise PluginError(
        f"--preprocessor {library}:{name} needs a plugin that can ask {library}",
        hint=f"install it: {install_command(f'mlserve-torch[{library}]')}",
    )


def _file(path: Path) -> Path:
    candidates = [path / _FILE, path / _CONFIG] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    what = f"has no {_FILE}" if path.is_dir() else "there is no such file"
    raise UsageError(f"--preprocessor {path}: {what}", hint=_GIVE)


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        data = json_of(read_plain(path, _LARGEST))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(
            f"--preprocessor {path} cannot be read as JSON: {reason}", hint=_GIVE
        ) from error
    if not isinstance(data, dict):
        raise ExportError(f"--preprocessor {path} holds JSON, but not an object", hint=_GIVE)
    return data


def _with_labels_beside(path: Path, found: Preprocessor) -> Preprocessor:
    """Return it with the labels of the model's `config.json` in the same folder, if it has any."""
    config = path.with_name(_CONFIG)
    if config == path or not config.is_file() or "id2label" not in _parsed(config):
        return found
    return replace(found, labels=read_labels(config), labels_name=f"id2label in {config}")
