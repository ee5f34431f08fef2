"""The models of benchmarks/preprocessing.py, each with the preprocessing of its own library.

Weights are seeded, none are downloaded, and the models of transformers have few layers. The scores
of such models are nearly the same for every image, so each is sharpened: over some images its
logits get the mean 0 and the deviation 3. A small difference of the pixels then changes the label.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
Pixels = Callable[[Image.Image], Array]
"""An RGB image to float32[height, width, 3], as the library prepares it."""
CLASSES = 1000
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Model:
    """A model in its framework, and what mlserve is told about it.

    `run` maps float32[1, height, width, 3] to logits [1, CLASSES]; `save` writes a file of the
    logits after `(logits - shift) * gain`. `options` are fields of ModelRequest.
    """

    pixels: Pixels
    run: Callable[[Array], Array]
    save: Callable[[Path, float, Array], Path]
    options: dict[str, Any]
    backends: tuple[str, ...]


def hugging_face(kind: str, config: Any, processor: Any, name: str, folder: Path) -> Model:
    """Return a classifier of transformers, and its image processor saved as a file."""
    import torch

    torch.manual_seed(0)
    network = getattr(_transformers(), f"{kind}ForImageClassification")(config).eval()
    data = processor.to_dict() | {"image_processor_type": name}
    (folder / "preprocessor_config.json").write_text(json.dumps(data))
    labels = {"id2label": {str(number): f"class {number}" for number in range(CLASSES)}}
    (folder / "config.json").write_text(json.dumps(labels))

    def pixels(image: Image.Image) -> Array:
        (value,) = processor(image, return_tensors="np")["pixel_values"]
        return np.asarray(value, np.float32).transpose(1, 2, 0)

    return _torch_model(Logits(network), pixels, {"preprocessor": str(folder)})


def resnet(folder: Path, *, is_fast: bool) -> Model:
    t = _transformers()
    kind = t.ConvNextImageProcessor if is_fast else t.ConvNextImageProcessorPil
    processor = kind(size={"shortest_edge": 224}, image_mean=_MEAN, image_std=_STD)
    name = "ConvNextImageProcessorFast" if is_fast else "ConvNextImageProcessor"
    sizes: dict[str, Any] = {
        "hidden_sizes": [32, 64, 128, 256],
        "depths": [1] * 4,
        "layer_type": "basic",
    }
    config = t.ResNetConfig(num_labels=CLASSES, **sizes)
    return hugging_face("ResNet", config, processor, name, folder)


def vit(folder: Path) -> Model:
    t = _transformers()
    sizes: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    sizes["num_hidden_layers"] = 3
    config = t.ViTConfig(num_labels=CLASSES, **sizes)
    return hugging_face("ViT", config, t.ViTImageProcessorPil(), "ViTImageProcessor", folder)


def swin(folder: Path, *, is_fast: bool) -> Model:
    t = _transformers()
    kind = t.ViTImageProcessor if is_fast else t.ViTImageProcessorPil
    processor = kind(image_mean=_MEAN, image_std=_STD, resample=3)
    name = "ViTImageProcessorFast" if is_fast else "ViTImageProcessor"
    config = t.SwinConfig(num_labels=CLASSES, embed_dim=48, depths=[1, 1, 2, 1])
    return hugging_face("Swin", config, processor, name, folder)


def convnext(folder: Path) -> Model:
    t = _transformers()
    size = {"shortest_edge": 224}
    processor = t.ConvNextImageProcessorPil(size=size, image_mean=_MEAN, image_std=_STD)
    sizes: dict[str, Any] = {"hidden_sizes": [32, 64, 128, 256], "depths": [1] * 4}
    config = t.ConvNextConfig(num_labels=CLASSES, **sizes)
    return hugging_face("ConvNext", config, processor, "ConvNextImageProcessor", folder)


def mobilenet_v2(folder: Path) -> Model:
    t = _transformers()
    config = t.MobileNetV2Config(num_labels=CLASSES)
    processor = t.MobileNetV2ImageProcessorPil()
    return hugging_face("MobileNetV2", config, processor, "MobileNetV2ImageProcessor", folder)


def torchvision_model(name: str, **options: Any) -> Model:
    """Return a model of torchvision, and the transforms of its default weights."""
    import torch
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model(name, weights=None, **options).eval()
    transforms = models.get_model_weights(name).DEFAULT.transforms()

    def pixels(image: Image.Image) -> Array:
        return np.asarray(transforms(image).permute(1, 2, 0).numpy())

    return _torch_model(network, pixels, {"preprocessor": f"torchvision:{name}"})


def timm_model(name: str) -> Model:
    """Return a model of timm, and the transforms of its data configuration."""
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    config = timm.data.resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    transforms = timm.data.create_transform(**config)

    def pixels(image: Image.Image) -> Array:
        return np.asarray(transforms(image).permute(1, 2, 0).numpy())

    options = {"preprocessor": f"timm:{name}", "labels": _LABELS}
    return _torch_model(network, pixels, options)


def keras_model(module: str, name: str, size: int, **options: Any) -> Model:
    """Return a model of keras.applications, with `load_img` and `preprocess_input`."""
    import keras

    keras.utils.set_random_seed(0)
    package = getattr(keras.applications, module)
    network = getattr(package, name)(weights=None, classifier_activation=None)

    def pixels(image: Image.Image) -> Array:
        small = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(package.preprocess_input(keras.utils.img_to_array(small)))

    def save(folder: Path, gain: float, shift: Array) -> Path:
        outputs = keras.layers.Rescaling(gain, (-shift * gain).tolist())(network.output)
        outputs = keras.layers.Softmax()(outputs)
        keras.Model(network.input, outputs).save(folder / "model.keras")
        return folder / "model.keras"

    def run(images: Array) -> Array:
        return np.asarray(network(images, training=False))

    told = {"labels": _LABELS, "activation": "none", **options}
    return Model(pixels, run, save, told, ("tfserving", "onnxruntime"))


_LABELS = tuple(f"class {number}" for number in range(CLASSES))


def _transformers() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


def Logits(network: Any) -> Any:  # noqa: N802 - a module, made where torch is imported
    """Return a module that gives the logits of a model of transformers alone."""
    from torch import nn

    class Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: Any) -> Any:
            return self.network(pixels).logits

    return Only().eval()


def _torch_model(network: Any, pixels: Pixels, options: dict[str, Any]) -> Model:
    import torch
    from torch import nn

    class Sharpened(nn.Module):
        def __init__(self, gain: float, shift: Array) -> None:
            super().__init__()
            self.network, self.gain = network, gain
            self.register_buffer("shift", torch.from_numpy(shift))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return ((self.network(pixels) - self.shift) * self.gain).softmax(1)

    def run(images: Array) -> Array:
        with torch.inference_mode():
            values = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            return np.asarray(network(values).numpy())

    def save(folder: Path, gain: float, shift: Array) -> Path:
        side = pixels(Image.new("RGB", (300, 300))).shape[0]
        example = torch.zeros(2, 3, side, side)
        batch = ({0: torch.export.Dim("batch")},)
        module = Sharpened(gain, shift).eval()
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=batch)
        torch.export.save(program, folder / "model.pt2")
        return folder / "model.pt2"

    told = {"activation": "none", **options}
    return Model(pixels, run, save, told, ("torch", "onnxruntime"))


_CAFFE = {"mean": (103.939, 116.779, 123.68), "channels": "bgr"}
MODELS: dict[str, Callable[[Path], Model]] = {
    "transformers ResNet": lambda folder: resnet(folder, is_fast=False),
    "transformers ResNet, fast": lambda folder: resnet(folder, is_fast=True),
    "transformers ViT": vit,
    "transformers Swin": lambda folder: swin(folder, is_fast=False),
    "transformers Swin, fast": lambda folder: swin(folder, is_fast=True),
    "transformers ConvNeXt": convnext,
    "transformers MobileNetV2": mobilenet_v2,
    "torchvision Inception v3": lambda _: torchvision_model(
        "inception_v3", transform_input=True, init_weights=False
    ),
    "torchvision ResNet": lambda _: torchvision_model("resnet18"),
    "torchvision MobileNetV3": lambda _: torchvision_model("mobilenet_v3_small"),
    "timm MobileNetV3": lambda _: timm_model("mobilenetv3_small_050"),
    "timm EfficientNet": lambda _: timm_model("efficientnet_b0"),
    "timm ViT": lambda _: timm_model("vit_tiny_patch16_224"),
    "Keras MobileNetV2": lambda _: keras_model(
        "mobilenet_v2", "MobileNetV2", 224, scale=(-1, 1), pixels={"antialias": True}
    ),
    "Keras ResNet-50": lambda _: keras_model(
        "resnet", "ResNet50", 224, scale=(0, 255), pixels={"antialias": True, **_CAFFE}
    ),
}


def sharpening(model: Model, images: Sequence[Array]) -> tuple[float, Array]:
    """Return the gain and the shift that make the logits of these images differ."""
    logits = np.concatenate([model.run(image[np.newaxis]) for image in images])
    shift = logits.mean(0)
    return float(3 / (logits - shift).std()), shift.astype(np.float32)
