"""A model's contract (inputs, outputs, and their sources) as lines for `export` and `metadata`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlserve.artifact import Manifest
from mlserve.certificate.certificate import Certificate
from mlserve.pipeline import Exif, ImagePipeline
from mlserve.preprocessing import VERSION_1, Channels, Preprocessing, ResizeMode
from mlserve.sources import Facts, How, facts_from_json

_LISTED = 8
_ACTIVATIONS = {
    "softmax": "scores are the softmax of the model's outputs",
    "identity": "the model's outputs are taken as scores",
    "sigmoid": "the model's one output is taken as the logit of the second class",
    "complement": "the model's one output is taken as the score of the second class",
}


def contract_lines(manifest: Manifest) -> Iterator[str]:
    """Yield lines about an exported model's inputs and outputs, and the warnings about them."""
    if manifest.pipeline is not None:
        yield from _lines(manifest.pipeline, manifest.facts)
    else:
        yield from _signature_lines(manifest)
    if manifest.certificate is not None:
        yield f"answers  {certificate_text(manifest.certificate)}"
    if manifest.agreement:
        yield f"agrees   {agreement_text(manifest.agreement)}"
    if not manifest.idempotent:
        yield "repeats  a request must not run twice (--not-idempotent)"


def certificate_text(certificate: Certificate) -> str:
    """Say in words what was measured when the artifact was exported."""
    labels = certificate.same_labels
    same = "" if labels is None else f"the label of {labels} of {certificate.cases} golden inputs, "
    return (
        f"as {certificate.reference} gives them: {same}"
        f"largest difference {certificate.difference:.2g} of {certificate.tolerance:.2g} allowed"
        + (f", on {certificate.cases} golden inputs" if labels is None else "")
        + _from_own(certificate)
    )


def _from_own(certificate: Certificate) -> str:
    own = certificate.own_tolerance
    return "" if own is None else f"; elsewhere {own:.2g} is allowed from these answers"


def agreement_text(agreement: Mapping[str, Any]) -> str:
    """Say in words what an export measured against its reference, as the manifest keeps it."""
    accuracy = agreement["accuracy"]
    right = (
        ""
        if accuracy is None
        else f"; right on {accuracy['artifact']:.1%} of {accuracy['inputs']} with labels, the "
        f"reference on {accuracy['reference']:.1%}"
    )
    return (
        f"{agreement['share']:.1%} with {agreement['reference']}: {agreement['same']} of "
        f"{agreement['inputs']} ({agreement['origin']}){right}"
    )


def _signature_lines(manifest: Manifest) -> Iterator[str]:
    for signature in manifest.signatures:
        name = "" if len(manifest.signatures) == 1 else f" of {signature.name}"
        yield f"inputs   {', '.join(map(str, signature.inputs))}{name}"
        yield f"outputs  {', '.join(map(str, signature.outputs))}{name}"
    yield from _tensor_lines(manifest.columns, manifest.facts)


def contract_lines_from_json(data: Mapping[str, Any]) -> list[str]:
    """Return the same lines for a server's JSON; none if it has another form."""
    try:
        facts = facts_from_json(data["facts"])
        if "pipeline" in data:
            return list(_lines(ImagePipeline.from_json(data["pipeline"]), facts))
        return list(_tensor_lines(data["columns"], facts))
    except (ValueError, KeyError, TypeError, AttributeError):  # another version of mlserve
        return []


def _tensor_lines(columns: Mapping[str, Sequence[str]], facts: Facts) -> Iterator[str]:
    for name, names in columns.items():
        shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        yield f"columns  {name}: {shown} ({len(names)})"
    for subject, fact in facts.items():
        yield f"{subject:<8} {'tensors; ' if subject == 'kind' else ''}{fact}"
    yield from _warnings(facts)


def _warnings(facts: Facts) -> Iterator[str]:
    for fact in facts.values():
        if fact.warning:
            yield f"WARNING  {fact.warning}"


def _lines(pipeline: ImagePipeline, facts: Facts) -> Iterator[str]:
    low, high = pipeline.offset, 255 * pipeline.scale + pipeline.offset
    colours = _COLOURS[pipeline.preprocessing.channels]
    yield (
        f"input    JPEG or PNG -> {pipeline.width}x{pipeline.height} {colours}{_how(facts, 'size')}"
    )
    if pipeline.exif is Exif.APPLY:
        yield "exif     images are turned upright by their EXIF orientation"
    if "layout" in facts:
        yield f"layout   {_how(facts, 'layout', '')}"
    if pipeline.preprocessing != VERSION_1 or "resize" in facts:
        yield from _resize_lines(pipeline, facts)
    yield f"scale    pixels 0 and 255 become {low:.4g} and {high:.4g}{_how(facts, 'scale')}"
    yield from _normalization_lines(pipeline.preprocessing, facts)
    yield (
        f"output   {pipeline.scored_classes} classes, {_ACTIVATIONS[pipeline.activation.value]}"
        f"{_how(facts, 'activation')}"
    )
    yield from _warnings(facts)


_COLOURS = {Channels.RGB: "RGB", Channels.BGR: "BGR", Channels.GREY: "grey"}


def _resize_lines(pipeline: ImagePipeline, facts: Facts) -> Iterator[str]:
    steps = pipeline.preprocessing
    yield f"channels {_COLOURS[steps.channels]}{_how(facts, 'channels')}"
    yield f"resize   {_resized_to(pipeline)}{_how(facts, 'resize')}"
    if steps.resize.size or steps.resize.mode is ResizeMode.SHORTEST_EDGE:
        yield f"crop     the centre, {pipeline.width}x{pipeline.height}{_how(facts, 'crop')}"
    yield f"filter   {steps.resize.interpolation}{_how(facts, 'interpolation')}"
    antialias = "with antialiasing" if steps.resize.antialias else "no antialiasing"
    yield f"         {antialias}{_how(facts, 'antialias')}"


def _resized_to(pipeline: ImagePipeline) -> str:
    resize = pipeline.preprocessing.resize
    height, width = resize.size or pipeline.size
    match resize.mode:
        case ResizeMode.SHORTEST_EDGE:
            return f"the shorter side to {height}"
        case ResizeMode.LETTERBOX:
            fill = ",".join(map(str, pipeline.preprocessing.padding))
            return f"to fit into {width}x{height}, the rest filled with {fill}"
        case ResizeMode.DIRECT:
            return f"to {width}x{height}"


def _normalization_lines(steps: Preprocessing, facts: Facts) -> Iterator[str]:
    for name, numbers, what in (
        ("mean", steps.mean, "is subtracted"),
        ("std", steps.std, "is divided by"),
    ):
        if numbers:
            shown = numbers if len(set(numbers)) > 1 else numbers[:1]
            listed = ", ".join(f"{number:.4g}" for number in shown)
            yield f"{name:<8} {listed} {what}{_how(facts, name)}"


def _how(facts: Facts, name: str, before: str = "; ") -> str:
    """Return how the fact is known, as the end of a line; empty if the manifest does not say."""
    if name not in facts:
        return ""
    fact = facts[name]
    flag = f" (give --{name} to be sure)" if fact.how is How.ASSUMED else ""
    return f"{before}{fact}{flag}"
