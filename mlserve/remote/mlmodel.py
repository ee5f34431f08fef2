"""Which file of a folder that MLflow has written is the model: its `MLmodel` file says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlserve.errors import ExportError
from mlserve.remote.address import Address, safe_name
from mlserve.remote.mlflow_store import MLMODEL, read_yaml

_KERAS = ("data/model.keras", "data/model.h5")
_REASONS = {
    "pytorch": "it is a pickled module, which only its own code can open",
    "transformers": "it needs the code of transformers",
    "xgboost": "it is a file of XGBoost",
    "lightgbm": "it is a file of LightGBM",
}
_HINTS = {
    "pytorch": "save the program with torch.export.save(...), and give the .pt2 file",
    "transformers": "export its model with torch.export.save(...), and give the .pt2 file",
    "xgboost": "log the scikit-learn estimator (XGBClassifier) with mlflow.sklearn",
    "lightgbm": "log the scikit-learn estimator (LGBMClassifier) with mlflow.sklearn",
}
_KNOWN = ("sklearn", "onnx", "keras", "tensorflow")


def model_in(folder: Path) -> Path:
    """Return the model's own file or folder. Raises ExportError for a kind mlserve cannot open."""
    path = folder / MLMODEL
    flavors = read_yaml(path, Address("", str(path))).get("flavors")
    if not isinstance(flavors, dict) or not flavors:
        raise ExportError(f"{path} lists no flavors", hint="log the model with mlflow again")
    for flavor in _KNOWN:
        if isinstance(described := flavors.get(flavor), dict):
            return _file(folder, flavor, described)
    program = next(folder.glob("data/*.pt2"), None)
    if "pytorch" in flavors and program is not None:
        return program
    raise _unknown(folder, flavors)


def _file(folder: Path, flavor: str, described: Mapping[str, Any]) -> Path:
    """Return the file that the description of a flavor names. Raises ExportError if it is gone."""
    names = [
        safe_name(str(described[key]), str(folder / MLMODEL))
        for key in ("pickled_model", "saved_model_dir", "data")
        if described.get(key)
    ]
    keras = [name for name in _KERAS if flavor in {"keras", "tensorflow"}]
    for name in [*keras, *names]:
        path = folder / name
        if path.exists() and not (flavor == "keras" and path.is_dir()):
            return path
    raise ExportError(
        f"{folder / MLMODEL} says that the model is {' or '.join(names) or 'somewhere'}, and it is "
        "not there",
        hint="fetch the whole folder of the model",
    )


def _unknown(folder: Path, flavors: Mapping[str, Any]) -> ExportError:
    flavor = next((name for name in _REASONS if name in flavors), None)
    names = ", ".join(sorted(flavors))
    if flavor is None:
        return ExportError(
            f"{folder / MLMODEL}: mlserve opens no MLflow model of the flavors {names}",
            hint=f"log it with one of {', '.join(f'mlflow.{known}' for known in _KNOWN)}",
        )
    return ExportError(
        f"{folder / MLMODEL}: mlserve cannot open an MLflow model of {flavor}: {_REASONS[flavor]}",
        hint=_HINTS[flavor],
    )
