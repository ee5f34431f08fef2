"""The model source of fitted estimators: skops, joblib and pickle files."""

from __future__ import annotations

from mlserve.distributions import install_command
from mlserve.sources import Kind, ModelRequest, ModelSource, Progress, TensorModel
from mlserve_sklearn.backend import FILES, FRAMEWORK, REQUIRES


class SklearnSource(ModelSource):
    """A fitted estimator in a file, under a name that the user chooses."""

    name = FRAMEWORK
    summary = "your own estimator: --model NAME --weights FILE.skops|FILE.joblib|FILE.pkl"
    file_types = (".skops", ".joblib", ".pkl")
    install_hint = install_command("mlserve-sklearn[serve]")
    framework = FRAMEWORK
    kinds = (Kind.TENSORS,)
    options = ("inputs", "allow_pickle", "trusted_types", "allow_version_mismatch")
    requires = REQUIRES

    def accepts(self, request: ModelRequest) -> bool:
        path = request.weights_path
        return path is not None and f"*{path.suffix}" in FILES and not path.is_dir()

    def open(self, request: ModelRequest, progress: Progress) -> TensorModel:
        """Read the file and look at what the estimator takes and gives. Raises ExportError.

        `content` of the result is an `OpenedEstimator`.
        """
        from mlserve_sklearn.opening import open_estimator

        return open_estimator(request)
