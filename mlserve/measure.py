"""Find out a model's input scale and output activation by reading its graph and running it.

The graph tells which arithmetic stands between the pixels and the first weights, and which
operation makes the output. Probe images tell the range of the outputs, whether they add up to 1,
and whether an image's answer depends on its neighbours. If the two disagree, or neither tells,
nothing is guessed: the export stops and asks for the flag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.contract import RAW, SYMMETRIC, UNIT, Contract, Evidence, Scale, scale_text, settle
from mlserve.errors import ExportError
from mlserve.graph import Graph, Op
from mlserve.images import RGB
from mlserve.kinds import AS_TENSORS
from mlserve.pipeline import Activation
from mlserve.sources import How, ModelRequest

Array = np.ndarray[Any, Any]

_ROUNDING = 1e-6
_SUM_TOLERANCE = 1e-3
_ROW_TOLERANCE = 1e-3
"""The largest difference, relative to the largest output, between an image alone and in a batch."""
_ASK_SCALE = "say what the pixel values 0 and 255 were in training: --scale 0..1, -1..1 or 0..255"


@dataclass(frozen=True)
class Subject:
    """The model to measure.

    `run` maps float32[N, height, width, depth] to float32[N, units]; `depth` is the number of
    channels. `graph` is None if it cannot be read. `has_batches` is False for a model that only
    ever gets one image at a time. `name` is its name in messages: `the model in FILE`.
    """

    name: str
    run: Callable[[Array], Any]
    height: int
    width: int
    graph: Graph | None
    has_batches: bool = True
    depth: int = RGB

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of one image."""
        return self.height, self.width, self.depth


def measure(
    subject: Subject, request: ModelRequest, known: Evidence[Scale] | None = None
) -> Contract:
    """Return the contract of the model: the user's values, else the measured ones.

    `known` is the scale of a model with a well-known name. Raises ExportError for a model that is
    not an image classifier, whose answers depend on the neighbours in the batch, and if neither the
    graph nor the probe tells what the user left open.
    """
    images = _probe_images(subject.shape)
    outputs = _outputs(subject, images)
    _check_rows(subject, images, outputs)
    activation = _activation(subject, outputs)
    scale = _scale(subject, known, activation)
    return settle(request, outputs.shape[1], activation, scale)


def _probe_images(shape: tuple[int, int, int]) -> Array:
    """Return float32[7, height, width, depth]: plain and seeded random images of growing range."""
    rng = np.random.default_rng(0)
    images = [np.full(shape, value, np.float32) for value in (0, 255, 0.5)]
    for low, high in ((0, 1), (-1, 1), (0, 255), (-255, 255)):
        images.append(rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low))
    return np.stack(images)


def _outputs(subject: Subject, images: Array) -> Array:
    outputs = np.asarray(subject.run(images))
    if outputs.ndim != 2 or len(outputs) != len(images) or not outputs.shape[1]:  # noqa: PLR2004
        raise ExportError(
            f"{subject.name} answers {len(images)} images with the shape {list(outputs.shape)}, "
            "not [N,classes]",
            hint=f"export a classifier: one row of scores for each image; {AS_TENSORS}",
        )
    if not np.isfinite(outputs).all():
        raise ExportError(
            f"the output of {subject.name} is not finite (NaN or infinity) for random images",
            hint="check the weights",
        )
    return outputs


def _check_rows(subject: Subject, images: Array, together: Array) -> None:
    """Raise ExportError unless an image gets the same answer alone as in a batch."""
    if not subject.has_batches:
        return
    company = len(images) - 1
    images, together = images[_ALONE], together[_ALONE]
    alone = np.concatenate([np.asarray(subject.run(image[np.newaxis])) for image in images])
    if alone.shape != together.shape:
        raise _not_independent(subject, f"gives the shape {list(alone.shape)} alone")
    own_size = np.abs(together).max(axis=1, keepdims=True)
    allowed = _ROW_TOLERANCE * own_size + _ROW_TOLERANCE / 100 * own_size.max() + _ROUNDING
    excess = np.abs(alone - together) - allowed
    if not (excess <= 0).all():
        row, unit = np.unravel_index(np.argmax(excess), excess.shape)
        raise _not_independent(
            subject,
            f"output {unit} is {alone[row, unit]:.4g} alone and {together[row, unit]:.4g} in "
            f"a batch with {company} others",
        )


def _not_independent(subject: Subject, difference: str) -> ExportError:
    return ExportError(
        f"an image's answer depends on its neighbours in the batch: {subject.name}, asked about "
        f"the same image, {difference}",
        hint="save the model in inference mode: BatchNormalization in training mode and random "
        "augmentation do this",
    )


def _activation(subject: Subject, outputs: Array) -> Evidence[Activation] | ExportError:
    """Find what turns the outputs into scores; return the error to raise if that is unknown."""
    graph = subject.graph
    proven = "scores" if graph and _is_unit(*graph.bounds()) else "nothing"
    if proven == "nothing" and graph and graph.ends_in_weights():
        proven = "logits"
    maker = graph.maker() if graph else None
    made = f"the output comes from {maker.name}" if maker else "its outputs were measured"
    is_unit = _is_unit(float(outputs.min()), float(outputs.max()))
    if outputs.shape[1] == 1:
        if maker and maker.op is Op.SOFTMAX:
            return ExportError(
                f"{subject.name} ends in a softmax over one output, which is always 1",
                hint="end the model in one sigmoid unit, or in a softmax over two",
            )
        return _activation_of_one(subject, outputs, made, proven, is_unit=is_unit)
    return _activation_of_several(subject, outputs, made, proven, is_unit=is_unit)


def _activation_of_one(
    subject: Subject, outputs: Array, made: str, proven: str, *, is_unit: bool
) -> Evidence[Activation] | ExportError:
    if proven == "scores":
        return Evidence(Activation.COMPLEMENT, f"{made}, so it is a score")
    if proven == "logits" or not is_unit:
        return Evidence(Activation.SIGMOID, f"{made}, so it is a logit")
    white = float(outputs[_WHITE, 0])
    return ExportError(
        f"neither the graph nor the probe tells what the one output of {subject.name} is: "
        f"{_range(outputs)} on {len(outputs)} images. As a score, white is {white:.3g} of the "
        f"second class; as a logit, {_sigmoid(white):.3g}",
        hint="say which: --activation none for a score, --activation sigmoid for a logit",
    )


def _activation_of_several(
    subject: Subject, outputs: Array, made: str, proven: str, *, is_unit: bool
) -> Evidence[Activation] | ExportError:
    sums = outputs.sum(axis=1)
    is_distribution = is_unit and bool(np.abs(sums - 1).max() <= _SUM_TOLERANCE)
    if is_distribution and proven != "logits":
        return Evidence(Activation.IDENTITY, f"{made}, and each row adds up to 1")
    if proven == "scores":
        return multi_label(subject.name, outputs.shape[1], sums)
    if not is_unit or (proven == "logits" and not is_distribution):
        return Evidence(Activation.SOFTMAX, f"{made}, so they are logits")
    row = outputs[_WHITE]
    best = int(row.argmax())
    return ExportError(
        f"neither the graph nor the probe tells what the {len(row)} outputs of {subject.name} are: "
        f"{_range(outputs)} on {len(outputs)} images, and {made}. As scores, white is class {best} "
        f"with {row[best]:.3g}; as logits, with {_softmax(row)[best]:.3g}",
        hint="say which: --activation none for scores, --activation softmax for logits",
    )


def multi_label(name: str, units: int, sums: Array) -> ExportError:
    """Return the error for a model with several independent yes/no outputs.

    Its scores do not add up to 1. Where no class or several apply, the one label that is served
    would be a guess: a part without a defect would still be labelled as defective.
    """
    return ExportError(
        f"the {units} outputs of {name} are independent probabilities (sigmoid), not one choice "
        f"among classes: they add up to {sums.min():.3g} to {sums.max():.3g}",
        hint="end the model in softmax, or in one sigmoid unit for two classes; if the class with "
        "the highest score is what you want all the same, say --activation none; to get all of "
        f"them, {AS_TENSORS}",
    )


def _scale(
    subject: Subject, known: Evidence[Scale] | None, activation: Evidence[Activation] | ExportError
) -> Evidence[Scale] | ExportError:
    """Find the values for pixels 0 and 255; return the error to raise if they are unknown."""
    found = None if subject.graph is None else _scale_in_graph(subject.graph)
    if isinstance(found, Evidence):
        if known is None or known.value == found.value:
            return found
        return ExportError(
            f"two answers to which pixel values {subject.name} takes: {scale_text(known.value)}, "
            f"as {known.why}; {scale_text(found.value)}, as {found.why}",
            hint=_ASK_SCALE,
        )
    if known is not None:
        return known
    readings = [(scale, _plain_white(subject, scale)) for scale in (UNIT, RAW)]
    if _is_scale_free(subject):
        return Evidence(UNIT, "the range of the pixels makes no difference to it", How.ASSUMED)
    unclear = f"; {found}, and neither range becomes a usual one by that" if found else ""
    return ExportError(
        f"nothing in {subject.name} tells which pixel values it was trained on{unclear}. With "
        + "; with ".join(
            f"{scale_text(scale)}, a white image is {_answer(row, activation)}"
            for scale, row in readings
        ),
        hint=_ASK_SCALE,
    )


def _scale_in_graph(graph: Graph) -> Evidence[Scale] | str | None:
    """Return the input range that the model's own arithmetic maps to a usual one.

    A string describes arithmetic that is inconclusive; None means that there is none.
    """
    names, ends = graph.preprocessing()
    if not names or not ends:
        return None
    seen = [_Mapped.by(graph, tensor) for tensor in ends]
    seen = [mapped for mapped in seen if not mapped.is_silent]
    if not seen:
        return None
    steps = ", ".join(names)
    scales = {mapped.scale() for mapped in seen}
    if len(scales) == 1 and (scale := scales.pop()) is not None:
        low, high = seen[0].image_of(scale)
        return Evidence(
            scale, f"its own {steps} makes {low:.3g}..{high:.3g} of {scale_text(scale)}"
        )
    return f"it has {steps} before its first weights"


@dataclass(frozen=True)
class _Mapped:
    """What the model's arithmetic makes of plain images of -1, 0, 1 and 255."""

    values: dict[float, Array]

    @classmethod
    def by(cls, graph: Graph, tensor: str) -> _Mapped:
        return cls(
            {
                value: np.asarray(graph.fetch(tensor, value), np.float64).ravel()
                for value in (-1.0, 0.0, 1.0, 255.0)
            }
        )

    @property
    def is_silent(self) -> bool:
        """Return whether the pixels come out unchanged."""
        return all(
            bool(np.abs(values - value).max(initial=0) <= _SAME * max(1.0, abs(value)))
            for value, values in self.values.items()
        )

    def image_of(self, scale: Scale) -> tuple[float, float]:
        both = [self.values[value] for value in scale]
        return float(min(each.min() for each in both)), float(max(each.max() for each in both))

    def scale(self) -> Scale | None:
        """Return the only range that maps to a usual one; None if neither or both do."""
        if not all(np.isfinite(values).all() for values in self.values.values()):
            return None
        fits = [scale for scale in (UNIT, RAW) if self._is_usual(scale)]
        if not fits and self._is_usual(SYMMETRIC) and self._has_offset(SYMMETRIC):
            return SYMMETRIC
        return fits[0] if len(fits) == 1 else None

    def _is_usual(self, scale: Scale) -> bool:
        """Return whether networks are usually fed with the range that this one becomes.

        That is about 0..1 or -1..1, up to some standard deviations, or 0..255 with or without a
        mean subtracted: never far from zero compared with its width. An offset that is negligible
        against the width belongs to another range: 0.5 to 0..1, 128 to 0..255.
        """
        low, high = (self.values[value] for value in scale)
        width = float(np.abs(high - low).mean())
        centre = abs(float((high + low).mean())) / 2
        is_wide = _NARROWEST <= width <= _WIDEST or _BYTES[0] <= width <= _BYTES[1]
        has_part = not self._shifts or self._has_offset(scale)
        return is_wide and centre <= width and has_part

    @property
    def _shifts(self) -> bool:
        return bool(np.abs(self.values[0.0]).max(initial=0) > _ROUNDING)

    def _has_offset(self, scale: Scale) -> bool:
        low, high = (self.values[value] for value in scale)
        width = float(np.abs(high - low).mean())
        return float(np.abs(self.values[0.0]).mean()) >= _SMALLEST_PART * width


_SAME = 0.01
_NARROWEST, _WIDEST = 0.8, 40.0
_BYTES = (150.0, 300.0)
_SMALLEST_PART = 0.02


def _plain_white(subject: Subject, scale: Scale) -> Array:
    """Return float32[units]: the outputs for a white image in that scale."""
    white = np.full((1, *subject.shape), scale[1], np.float32)
    row: Array = np.asarray(subject.run(white))[0]
    return row


def _is_scale_free(subject: Subject) -> bool:
    """Return whether noise gets the same outputs in 0..1 and in 0..255."""
    noise = np.random.default_rng(1).random((1, *subject.shape), np.float32)
    small, large = (np.asarray(subject.run(noise * np.float32(high))) for high in (1, 255))
    other = np.asarray(subject.run(1 - noise))
    close = _ROW_TOLERANCE * np.abs(small).max() + _ROUNDING
    depends = np.abs(small - other).max() > 10 * close
    return bool(np.abs(small - large).max() <= close and depends)


def _answer(row: Array, activation: Evidence[Activation] | ExportError) -> str:
    """Format the answer in a row of outputs for a message: `class 2 (0.73)`."""
    if isinstance(activation, ExportError):
        return f"class {int(row.argmax())} (output {row.max():.3g})"
    match activation.value:
        case Activation.SOFTMAX:
            scores: Sequence[float] = _softmax(row).tolist()
        case Activation.IDENTITY:
            scores = row.tolist()
        case Activation.SIGMOID:
            scores = (1 - _sigmoid(row[0]), _sigmoid(row[0]))
        case Activation.COMPLEMENT:
            scores = (1 - row[0], row[0])
    best = int(np.argmax(scores))
    return f"class {best} ({scores[best]:.3g})"


def _softmax(row: Array) -> Array:
    powers = np.exp(row.astype(np.float64) - row.max())
    result: Array = powers / powers.sum()
    return result


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(np.float64(value), -700, 700))))


def _is_unit(low: float, high: float) -> bool:
    return low >= -_ROUNDING and high <= 1 + _ROUNDING


def _range(outputs: Array) -> str:
    return f"{outputs.min():.3g} to {outputs.max():.3g}"


_WHITE = 1
"""The index of white among the probe images."""
_ALONE = [_WHITE, 5, 6]
"""The images also run alone: white, and the noise of both wide ranges."""
