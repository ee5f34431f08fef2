"""A model's contract (inputs, outputs, and their sources) as lines for `export` and `metadata`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlserve.artifact import Manifest
from mlserve.pipeline import Exif, ImagePipeline
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
        return
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
    yield f"input    JPEG or PNG -> {pipeline.width}x{pipeline.height} RGB{_how(facts, 'size')}"
    if pipeline.exif is Exif.APPLY:
        yield "exif     images are turned upright by their EXIF orientation"
    if "layout" in facts:
        yield f"layout   {_how(facts, 'layout', '')}"
    yield f"scale    pixels 0 and 255 become {low:.4g} and {high:.4g}{_how(facts, 'scale')}"
    yield (
        f"output   {pipeline.scored_classes} classes, {_ACTIVATIONS[pipeline.activation.value]}"
        f"{_how(facts, 'activation')}"
    )
    yield from _warnings(facts)


def _how(facts: Facts, name: str, before: str = "; ") -> str:
    """Return how the fact is known, as the end of a line; empty if the manifest does not say."""
    if name not in facts:
        return ""
    fact = facts[name]
    flag = f" (give --{name} to be sure)" if fact.how is How.ASSUMED else ""
    return f"{before}{fact}{flag}"
