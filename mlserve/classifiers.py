"""Turn a model in memory into a Classifier: add its labels and its image pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlserve.contract import Contract
from mlserve.errors import ExportError
from mlserve.images import RGB
from mlserve.kinds import AS_TENSORS
from mlserve.pipeline import DEFAULT_TOP_K, ImagePipeline, class_offset
from mlserve.pixel_options import SUBJECTS, PixelOptions
from mlserve.sources import Classifier, Fact, Facts, How, ModelRequest, Reference

_BINARY_LABELS = 2


@dataclass(frozen=True)
class Network:
    """A classifier in memory: `forward` maps float32[N, height, width, depth] to float32[N, units].

    `size` is (height, width), and `depth` 3, or 1 for a model of grey images. `contract` describes
    the rest of the input and output, and how it is known; `facts` do the same for size and layout.
    `framework` says what `forward` is, and `details` what else its backends need to know, as in
    Classifier; so is `reference`.
    """

    forward: Any
    size: tuple[int, int]
    contract: Contract
    source: str
    digest: str
    has_random_weights: bool = False
    framework: str = "tensorflow"
    facts: Facts = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    depth: int = RGB
    reference: Reference | None = None

    @property
    def units(self) -> int:
        return self.contract.units


def classifier(
    request: ModelRequest, network: Network, own_labels: Sequence[str] | None = None
) -> Classifier:
    """Return the network with its labels and pipeline, ready for a backend.

    `own_labels` are those that the model is known to have. Raises ExportError when there are no
    labels or their number does not fit.
    """
    scored = 2 if network.contract.activation.is_binary else network.units
    labels = _labels(request, network, scored, own_labels)
    request.pixels.require_resizable(network.size)
    height, width = network.size
    low, high = network.contract.scale
    pipeline = ImagePipeline(
        height=height,
        width=width,
        scale=(high - low) / 255,
        offset=low,
        activation=network.contract.activation,
        classes=network.units,
        class_offset=class_offset(scored, labels, has_background=request.has_background),
        is_background_given=request.has_background,
        top_k=min(request.top_k or DEFAULT_TOP_K, scored),
        exif=request.exif,
        preprocessing=request.pixels.preprocessing(network.size, network.depth),
    )
    return Classifier(
        name=request.model,
        forward=network.forward,
        pipeline=pipeline,
        labels=labels,
        source=network.source,
        weights_digest=network.digest,
        has_random_weights=network.has_random_weights,
        framework=network.framework,
        facts={
            **network.facts,
            **network.contract.facts,
            **pixel_facts(request.pixels),
            **_label_facts(request),
        },
        details=network.details,
        reference=network.reference,
    )


def _label_facts(request: ModelRequest) -> Facts:
    if not request.labels_origin:
        return {}
    return {"labels": Fact(How.GIVEN, request.labels_origin)}


def pixel_facts(options: PixelOptions) -> Facts:
    """Return how what is done to the pixels is known; nothing if nobody said anything about it.

    What the options leave open is assumed: the other steps of version 1.
    """
    if not options.given:
        return {}
    said = {**options.origins, **options.notes}
    assumed = dict.fromkeys(_ALWAYS_DONE, Fact(How.ASSUMED))
    if options.crop is not None:
        assumed["resize"] = Fact(How.ASSUMED, "the usual way with --crop")
    given = {
        SUBJECTS.get(name, name): Fact(How.GIVEN, said.get(name, "")) for name in options.given
    }
    return {**assumed, **given}


_ALWAYS_DONE = ("channels", "resize", "interpolation", "antialias")


def _labels(
    request: ModelRequest, network: Network, scored: int, own_labels: Sequence[str] | None
) -> tuple[str, ...]:
    given = request.given_labels()
    if given is None and own_labels is None:
        raise ExportError(
            f"the model {request.model!r} has {scored} classes and no labels are given",
            hint=f"name them with --labels FILE: {scored} lines, in the order of the model's "
            f"outputs; or {AS_TENSORS}",
        )
    labels = tuple(own_labels or ()) if given is None else given
    if network.contract.activation.is_binary and len(labels) != _BINARY_LABELS:
        raise ExportError(
            f"the model has one output for two classes and there are {len(labels)} labels",
            hint="give two labels: first the class of output 0, then the class of output 1",
        )
    return labels
