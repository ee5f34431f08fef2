"""EfficientNet-Lite0 as a plain `tf.Module`, built from the weights of the PyTorch port.

Lite0 is EfficientNet-B0 without squeeze-and-excitation, with ReLU6 in place of swish, and with
fixed widths of stem and head. Its weights were trained in TensorFlow, so 'same' padding is
TensorFlow's, which for stride 2 pads the lower right. Each batch norm is folded into the
convolution before it (kernel * gamma / sqrt(variance + epsilon)), in float32: the same function in
fewer steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mlserve.classifiers import Network
from mlserve.contract import Evidence, Scale, settle
from mlserve.errors import ExportError, reason_of
from mlserve.pipeline import Activation
from mlserve.sources import ModelRequest
from mlserve_models import reference
from mlserve_models.sizes import known_size

SIZE = 224
EPSILON = 1e-3
_STEM, _HEAD, _CLASSES = 32, 1280, 1000

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Stage:
    """A row of equal blocks; only the first uses the stride, only the random model the widths."""

    repeats: int
    stride: int
    kernel: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 1, 3, 1, 16),
    Stage(2, 2, 3, 6, 24),
    Stage(2, 2, 5, 6, 40),
    Stage(3, 2, 3, 6, 80),
    Stage(3, 1, 5, 6, 112),
    Stage(4, 2, 5, 6, 192),
    Stage(1, 1, 3, 6, 320),
)


def _blocks() -> Iterator[tuple[str, int, Stage]]:
    """Yield the name prefix, stride and stage of each block in order."""
    index = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            yield f"_blocks.{index}.", 1 if repeat else stage.stride, stage
            index += 1


def fold(kernel: Array, weights: Weights, norm: str) -> tuple[Array, Array]:
    """Return a convolution's kernel [out, in, height, width] and bias with batch norm folded in."""
    factor = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * factor
    return kernel * factor[:, None, None, None], bias


class _Convolution(tf.Module):  # type: ignore[misc]
    """A convolution with its batch norm folded in: depthwise if it has one input channel."""

    def __init__(self, weights: Weights, name: str, norm: str, stride: int) -> None:
        super().__init__(name="convolution")
        kernel, bias = fold(weights[f"{name}.weight"], weights, norm)
        self.is_depthwise = kernel.shape[1] == 1
        axes = (2, 3, 0, 1) if self.is_depthwise else (2, 3, 1, 0)
        self.kernel = _constant_variable(kernel.transpose(axes))
        self.bias = _constant_variable(bias)
        self.strides = [1, stride, stride, 1]

    def __call__(self, images: Any) -> Any:
        convolve = tf.nn.depthwise_conv2d if self.is_depthwise else tf.nn.conv2d
        return tf.nn.bias_add(convolve(images, self.kernel, self.strides, "SAME"), self.bias)


class _Block(tf.Module):  # type: ignore[misc]
    """Expand, filter each channel, project; with a residual if the shape is unchanged."""

    def __init__(self, weights: Weights, prefix: str, stride: int) -> None:
        super().__init__(name="block")
        steps = []
        if f"{prefix}_expand_conv.weight" in weights:
            steps.append(_Convolution(weights, f"{prefix}_expand_conv", f"{prefix}_bn0", 1))
        depthwise = f"{prefix}_depthwise_conv"
        steps.append(_Convolution(weights, depthwise, f"{prefix}_bn1", stride))
        self.steps = steps
        self.project = _Convolution(weights, f"{prefix}_project_conv", f"{prefix}_bn2", 1)
        self.has_skip = stride == 1 and steps[0].kernel.shape[2] == self.project.kernel.shape[3]

    def __call__(self, images: Any) -> Any:
        features = images
        for step in self.steps:
            features = tf.nn.relu6(step(features))
        features = self.project(features)
        return features + images if self.has_skip else features


class EfficientNetLite0(tf.Module):  # type: ignore[misc]
    """The network: float32[N, 224, 224, 3] of (pixel - 127) / 128 to float32[N, classes] logits."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(name="efficientnet_lite0")
        self.stem = _Convolution(weights, "_conv_stem", "_bn0", 2)
        self.blocks = [_Block(weights, prefix, stride) for prefix, stride, _ in _blocks()]
        self.head = _Convolution(weights, "_conv_head", "_bn1", 1)
        self.kernel = _constant_variable(weights["_fc.weight"].T)
        self.bias = _constant_variable(weights["_fc.bias"])

    def __call__(self, images: Any) -> Any:
        features = tf.nn.relu6(self.stem(images))
        for block in self.blocks:
            features = block(features)
        features = tf.reduce_mean(tf.nn.relu6(self.head(features)), axis=[1, 2])
        return tf.matmul(features, self.kernel) + self.bias


_SCALE: Scale = (-127 / 128, 1.0)
_KNOWN_SCALE = Evidence(_SCALE, "EfficientNet-Lite takes (pixel - 127) / 128")
_KNOWN_ACTIVATION = Evidence(Activation.SOFTMAX, "its last layer gives logits")


def network(
    weights: Weights,
    request: ModelRequest,
    source: str,
    digest: str,
    *,
    has_random_weights: bool = False,
) -> Network:
    """Build the network. Raises ExportError for a weight that is absent or misshapen."""
    try:
        forward = EfficientNetLite0(weights)
        units = int(forward(tf.zeros([1, SIZE, SIZE, 3])).shape[1])
    except KeyError as error:
        raise _wrong_weights(source, f"{error.args[0]} is missing") from error
    except (ValueError, AttributeError, tf.errors.OpError) as error:
        raise _wrong_weights(source, reason_of(error)) from error
    return Network(
        forward,
        (SIZE, SIZE),
        settle(request, units, _KNOWN_ACTIVATION, _KNOWN_SCALE),
        source,
        digest,
        has_random_weights=has_random_weights,
        facts=known_size(request),
        reference=reference.of_forward(forward),
    )


def random_weights(seed: int) -> dict[str, Array]:
    """Draw weights of the right names and shapes from `seed`; batch norms are identities."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}

    def draw(name: str, norm: str, *shape: int) -> None:
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}.weight"] = rng.normal(0, deviation, shape).astype(np.float32)
        for part, value in _NEUTRAL_NORM.items():
            weights[f"{norm}.{part}"] = np.full(shape[0], value, np.float32)

    draw("_conv_stem", "_bn0", _STEM, 3, 3, 3)
    width = _STEM
    for prefix, _, stage in _blocks():
        inner = width * stage.expansion
        if stage.expansion > 1:
            draw(f"{prefix}_expand_conv", f"{prefix}_bn0", inner, width, 1, 1)
        draw(f"{prefix}_depthwise_conv", f"{prefix}_bn1", inner, 1, stage.kernel, stage.kernel)
        draw(f"{prefix}_project_conv", f"{prefix}_bn2", stage.width, inner, 1, 1)
        width = stage.width
    draw("_conv_head", "_bn1", _HEAD, width, 1, 1)
    weights["_fc.weight"] = rng.normal(0, _HEAD**-0.5, (_CLASSES, _HEAD)).astype(np.float32)
    weights["_fc.bias"] = np.zeros(_CLASSES, np.float32)
    return weights


_NEUTRAL_NORM = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1 - EPSILON}


def _constant_variable(value: Array) -> Any:
    return tf.Variable(value.astype(np.float32), trainable=False)


def _wrong_weights(source: str, reason: str) -> ExportError:
    return ExportError(
        f"the weights of {source} are not EfficientNet-Lite0's: {reason}",
        hint="give the state dict of efficientnet_lite0_pytorch, or leave --weights out",
    )
