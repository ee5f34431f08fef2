"""Which signature to ask about an image, chosen from what the server says of the model."""

from __future__ import annotations

from dataclasses import replace

from mlserve.client.answers import ModelMetadata
from mlserve.client.wire import Plan
from mlserve.errors import UsageError
from mlserve.tensors import DType, Signature

FIRST = Plan("top_k", "image", (1,))
"""What mlserve's own models offer; asked first, so that no metadata has to be fetched."""
_DEFAULT_SIGNATURE = "serving_default"
_FLOATS = (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64)


def choose(metadata: ModelMetadata) -> Plan:
    """The plan for this model: labels with scores, else the default signature, else the only one.

    Raises UsageError, saying what the model takes, when no signature takes one string.
    """
    fits = [signature for signature in metadata.signatures if _takes_a_file(signature)]
    if not fits:
        raise _no_image_input(metadata)
    chosen = (
        next((s for s in fits if {"labels", "scores"} <= {spec.name for spec in s.outputs}), None)
        or next((s for s in fits if s.name == _DEFAULT_SIGNATURE), None)
        or (fits[0] if len(fits) == 1 else None)
    )
    if chosen is None:
        names = ", ".join(signature.name for signature in fits)
        raise UsageError(
            f"the model {metadata.model} has several signatures that take one string ({names}), "
            f"none of them {_DEFAULT_SIGNATURE} or with labels and scores",
            hint=f"export the model with a signature {_DEFAULT_SIGNATURE}",
        )
    return Plan(chosen.name, chosen.inputs[0].name, _one_element(chosen) or ())


def choose_nameless(metadata: ModelMetadata) -> Plan:
    """The plan for a model of the Open Inference Protocol, which is one nameless function.

    On mlserve's own servers it is the signature with labels and scores. A model that gives nothing
    but scores is asked for their classes. Raises UsageError as `choose`.
    """
    if FIRST.signature in metadata.selectable:
        return FIRST
    plan = replace(choose(metadata), signature="")
    outputs = metadata.signatures[0].outputs
    if len(outputs) == 1 and outputs[0].dtype in _FLOATS:
        return replace(plan, scores=outputs[0].name)
    return plan


def _takes_a_file(signature: Signature) -> bool:
    is_one_string = [spec.dtype for spec in signature.inputs] == [DType.BYTES]
    return is_one_string and _one_element(signature) is not None


def _one_element(signature: Signature) -> tuple[int, ...] | None:
    """The shape that holds one string in the signature's input; None when there is none."""
    shape = signature.inputs[0].shape
    if shape is None:
        return (1,)
    return (1,) * len(shape) if all(size in (None, 1) for size in shape) else None


def _no_image_input(metadata: ModelMetadata) -> UsageError:
    if not any(signature.inputs for signature in metadata.signatures):
        return UsageError(
            f"the server shows no input of the model {metadata.model} that a request can carry",
            hint="declare its inputs there (MLServer: in model-settings.json); predict needs one "
            "input of type BYTES for the image file",
        )
    offers = "; ".join(
        f"{signature.name}({', '.join(map(str, signature.inputs))})"
        for signature in metadata.signatures
    )
    return UsageError(
        f"the model {metadata.model} takes no image file; it takes {offers or 'nothing'}",
        hint="predict sends image files as they are: serve a model that decodes them in its graph, "
        "as those of mlserve export do",
    )
