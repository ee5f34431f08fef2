"""A user's own SavedModel."""

from __future__ import annotations

from mlserve.classifiers import classifier
from mlserve.sources import Classifier, ModelRequest, ModelSource, Progress
from mlserve_models.framework import INSTALL_HINT, framework_imports
from mlserve_models.names import is_named, is_savedmodel


class SavedModelSource(ModelSource):
    """A SavedModel folder, or a `.tar.gz` of one, under a name that the user chooses."""

    name = "savedmodel"
    summary = "your own SavedModel: --model NAME --weights DIR|FILE.tar.gz --labels FILE"
    install_hint = INSTALL_HINT
    requires = ("tensorflow", "numpy")

    def accepts(self, request: ModelRequest) -> bool:
        return not is_named(request.model) and is_savedmodel(request.weights_path)

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """The model in the folder, its input read from its signature, its output probed."""
        path = request.weights_path
        if path is None:
            raise ValueError("a SavedModel source was asked to open a request without a folder")
        with framework_imports():
            from mlserve_models import savedmodel_module
        return classifier(request, savedmodel_module.network_of_path(path, request))
