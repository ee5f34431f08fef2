"""The `sklearn` backend: fitted estimators, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlserve.artifact import EXPORT_AGAIN, Artifact
from mlserve.backend import Backend, Runner
from mlserve.distributions import install_command
from mlserve.errors import ExportError, ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.precision import NATIVE
from mlserve.sources import Model, TensorModel
from mlserve.tensors import Signature

FRAMEWORK = "sklearn"
FILES = ("*.skops", "*.joblib", "*.pkl", "*.pickle")
REQUIRES = ("sklearn", "skops", "joblib", "threadpoolctl", "numpy", "pandas")


class SklearnBackend(Backend):
    """Estimators and pipelines that follow scikit-learn's API."""

    name = FRAMEWORK
    summary = "estimators and pipelines of scikit-learn, XGBoost and LightGBM, as they are"
    install_hint = install_command("mlserve-sklearn[serve]")
    requires = REQUIRES
    files = FILES
    frameworks = (FRAMEWORK,)
    own_precision = NATIVE
    load_options = ("allow_pickle", "trusted_types", "allow_version_mismatch")

    def export(self, model: Model, into: Path) -> Sequence[Signature]:
        """Write the estimator's file into `into`. Raises ExportError for another framework."""
        if not isinstance(model, TensorModel) or model.framework != FRAMEWORK:
            raise self.takes_no(model)
        (into / model.content.file_name).write_bytes(model.content.data)
        return model.signatures

    def load(self, artifact: Artifact, options: LoadOptions) -> Runner:
        """Load an estimator's file, whoever put it there. Raises ModelLoadFailed."""
        file = self.model_file(artifact.path)
        from mlserve_sklearn.opening import load_estimator

        try:
            runner = load_estimator(artifact, file, options)
        except ExportError as error:  # the same checks as at export
            raise ModelLoadFailed(f"{file}: {error.message}", hint=error.hint) from error
        wanted = artifact.manifest.signatures if artifact.manifest else ()
        for signature in wanted:
            if runner.signatures.get(signature.name) != signature:
                raise ModelLoadFailed(
                    f"{file} holds a different model than its manifest says", hint=EXPORT_AGAIN
                )
        return runner

    def sample(self, into: Path) -> None:
        """Write a logistic regression of four columns, trained on made-up rows."""
        from mlserve_sklearn.sample import write_sample

        write_sample(into / "sample.skops")
