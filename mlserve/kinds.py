"""What a model is served as, an image classifier or tensors, and which options that rules out."""

from __future__ import annotations

from mlserve.errors import ExportError, UsageError
from mlserve.pipeline import Exif
from mlserve.sources import Fact, How, Kind, ModelRequest, ModelSource, TensorModel

AS_TENSORS = "--kind tensors exports it with its own inputs and outputs"
"""Part of the hints for a model of images that cannot be served as a classifier."""


def is_for_tensors(request: ModelRequest, problem: ExportError | None) -> bool:
    """Return whether to serve the model as tensors: if asked, or if it is not a classifier.

    `problem` says why it cannot be an image classifier; None if it can. Raises it if the user asks
    for an image classifier.
    """
    if problem is not None and request.kind is Kind.IMAGE_CLASSIFIER:
        raise problem
    return request.kind is Kind.TENSORS or problem is not None


def kind_fact(request: ModelRequest, problem: ExportError | None) -> Fact:
    """Return how it is known that the model is served as tensors."""
    if request.kind is not None or problem is None:
        return Fact(How.GIVEN)
    return Fact(How.FOUND, problem.message)


def require_kind(request: ModelRequest, source: ModelSource) -> None:
    """Raise UsageError, before anything is opened, for a kind that the source does not have."""
    kind = request.kind
    if kind is not None and kind not in source.kinds:
        raise UsageError(
            f"--kind {kind}: {request.model} is exported as {source.kinds[0]} only",
            hint="leave --kind out",
        )
    if kind is Kind.TENSORS or source.kinds == (Kind.TENSORS,):
        _require_no_image_options(request, f"{request.model} is exported as tensors")


def require_fitting_options(request: ModelRequest, model: TensorModel) -> None:
    """Raise UsageError for options of image classifiers, naming the first that is given."""
    fact = model.facts.get("kind")
    why = f": {fact.why}" if fact and fact.why else ""
    _require_no_image_options(request, f"{model.name} is not one{why}")


def _require_no_image_options(request: ModelRequest, why: str) -> None:
    given = _image_options(request)
    if given:
        raise UsageError(
            f"{given[0]} is for image classifiers, and {why}",
            hint=f"leave {' and '.join(given)} out to export its own inputs and outputs",
        )


def _image_options(request: ModelRequest) -> list[str]:
    options = {
        "--labels": request.labels is not None,
        "--background": request.has_background,
        "--input-size": request.input_size is not None,
        "--scale": request.scale is not None,
        "--layout": request.layout is not None,
        "--activation": request.activation is not None,
        "--top-k": request.top_k is not None,
        "--exif": request.exif is not Exif.IGNORE,
    }
    if request.preprocessor is not None:
        return ["--preprocessor"]
    given = [option for option, is_given in options.items() if is_given]
    return [*given, *request.pixels.options]
