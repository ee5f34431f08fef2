"""MLflow's file store: a folder of YAML files, one for each run, model and version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from mlserve.errors import ExportError, NotFound, UsageError, reason_of
from mlserve.remote.address import Address, safe_name
from mlserve.remote.upstream import absent_library

MLMODEL = "MLmodel"
"""The file that makes a folder a model of MLflow."""
_META = "meta.yaml"
_REGISTRY = "models"


class Tracking(ABC):
    """What mlserve asks of MLflow: where the files of versions, models and runs are.

    Locations are addresses or paths. Every method raises NotFound for what there is not.
    """

    @abstractmethod
    def location_of_version(self, name: str, version: str) -> str: ...

    @abstractmethod
    def version_of_alias(self, name: str, alias: str) -> str: ...

    @abstractmethod
    def latest_version(self, name: str) -> str: ...

    @abstractmethod
    def location_of_model(self, model_id: str) -> str: ...

    @abstractmethod
    def location_of_run(self, run: str) -> str: ...

    @abstractmethod
    def model_of_run(self, run: str, name: str) -> str | None:
        """Return the id of the model that the run has logged under that name, if it has."""

    def close(self) -> None:
        """Close what is open."""
        return  # a folder is not


class FileStore(Tracking):
    """The folder that MLFLOW_TRACKING_URI names: `<experiment>/<run>/`, `<experiment>/models/`."""

    def __init__(self, root: Path, address: Address) -> None:
        self._root = root
        self._address = address

    def location_of_version(self, name: str, version: str) -> str:
        what = f"version {version} of the model {name}"
        meta = self._read(self._model(name) / f"version-{version}", what)
        key = "storage_location" if meta.get("storage_location") else "source"
        return text_in(meta, key, owner=what)

    def version_of_alias(self, name: str, alias: str) -> str:
        path = self._model(name) / "aliases" / self._safe(alias)
        try:
            return path.read_text().strip()
        except FileNotFoundError as error:
            raise self._absent(f"alias {alias} of the model {name}") from error

    def latest_version(self, name: str) -> str:
        found = [
            int(folder.name.removeprefix("version-"))
            for folder in self._model(name).glob("version-*")
            if folder.name.removeprefix("version-").isdecimal()
        ]
        if not found:
            raise self._absent(f"version of the model {name}")
        return str(max(found))

    def location_of_model(self, model_id: str) -> str:
        found = self._one(f"*/models/{self._safe(model_id)}", f"model {model_id}")
        what = f"model {model_id}"
        return text_in(self._read(found, what), "artifact_location", owner=what)

    def location_of_run(self, run: str) -> str:
        return text_in(self._read(self._run(run), f"run {run}"), "artifact_uri", owner=f"run {run}")

    def model_of_run(self, run: str, name: str) -> str | None:
        for output in sorted((self._run(run) / "outputs").glob("m-*")):
            found = self._one(f"*/models/{output.name}", f"model {output.name}")
            if self._read(found, f"model {output.name}").get("name") == name:
                return output.name
        return None

    def _model(self, name: str) -> Path:
        return self._root / _REGISTRY / self._safe(name)

    def _run(self, run: str) -> Path:
        return self._one(f"*/{self._safe(run)}", f"run {run}")

    def _safe(self, name: str) -> str:
        return safe_name(name.replace("*", "\\"), self._address.shown)  # it may stand in a pattern

    def _one(self, pattern: str, what: str) -> Path:
        found = next(iter(self._root.glob(pattern)), None)
        if found is None:
            raise self._absent(what)
        return found

    def _read(self, folder: Path, what: str) -> dict[str, Any]:
        try:
            return read_yaml(folder / _META, self._address)
        except FileNotFoundError as error:
            raise self._absent(what) from error

    def _absent(self, what: str) -> NotFound:
        return NotFound(
            f"{self._address.shown}: the MLflow store {self._root} has no {what}",
            hint="check the spelling, and MLFLOW_TRACKING_URI",
        )


def text_in(found: Any, *keys: str | int, owner: str) -> str:
    """Return the text at these keys of what MLflow said. Raises ExportError, naming the owner."""
    inner = found
    for key in keys:
        try:
            inner = inner[key]
        except (KeyError, IndexError, TypeError):
            inner = None
    if isinstance(inner, str | int) and str(inner):
        return str(inner)
    raise ExportError(
        f"{owner} has no {'.'.join(map(str, keys))}",
        hint="check that MLflow can open it: mlflow artifacts download",
    )


def read_yaml(path: Path, address: Address) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises PluginError, UsageError, and OSError."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise absent_library(address, "PyYAML", "mlflow") from error
    try:
        found = yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ExportError(f"{path} is not valid YAML: {reason_of(error)}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not a file of MLflow: it holds no mapping")
    return found
