"""A user's own Keras model in a file."""

from __future__ import annotations

from mlserve.classifiers import classifier
from mlserve.sources import Classifier, ModelRequest, ModelSource, Progress
from mlserve_models.framework import INSTALL_HINT, framework_imports
from mlserve_models.names import is_keras_file, is_named


class KerasFileSource(ModelSource):
    """A whole model in a `.keras`, `.h5` or `.hdf5` file, under a name that the user chooses."""

    name = "keras"
    summary = "your own Keras model: --model NAME --weights FILE.keras|FILE.h5 --labels FILE"
    install_hint = INSTALL_HINT
    requires = ("keras", "tensorflow", "h5py")

    def accepts(self, request: ModelRequest) -> bool:
        return not is_named(request.model) and is_keras_file(request.weights_path)

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """The model in the file, its input and output worked out from its layers."""
        path = request.weights_path
        if path is None:
            raise ValueError("a Keras file source was asked to open a request without a file")
        with framework_imports():
            from mlserve_models import keras_model
        return classifier(request, keras_model.network_of_file(path, request))
