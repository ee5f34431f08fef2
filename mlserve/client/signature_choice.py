"""Choose which signature to ask about an image, from the model's metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlserve.client.adapter import USUAL_TOP_K, ImageRequest, SignatureChoice
from mlserve.client.answers import Answer, ModelMetadata
from mlserve.errors import UsageError
from mlserve.input_example import predict_command
from mlserve.tensors import DEFAULT_SIGNATURE, PREDICT, DType, Signature

BEST = SignatureChoice("top_k", "image", (1,))
RANKING = SignatureChoice("ranking", "image", (1,))
_EXAMPLES = (
    "; tf.Examples are for TensorFlow Serving's Classify and Regress over gRPC, and for :classify "
    "and :regress over REST"
)
_FLOATS = (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64)


@dataclass(frozen=True, slots=True)
class SignatureChoices:
    """How to ask a model for its best classes, and for all of them; None if not offered."""

    best: SignatureChoice
    ranking: SignatureChoice | None = None

    def choice_for(self, request: ImageRequest) -> SignatureChoice:
        """Return the signature that gives as many classes as wanted, or as many as there are."""
        held = self.best.classes or USUAL_TOP_K
        if request.top_k is None or request.top_k <= held or self.ranking is None:
            return self.best
        return self.best if self.ranking.classes == held else self.ranking

    def learnt(self, choice: SignatureChoice, answer: Answer) -> SignatureChoices:
        """Return the choices, updated with the number of classes in an answer."""
        seen = replace(choice, classes=answer.classes or None)
        if self.ranking and choice.signature == self.ranking.signature:
            return replace(self, ranking=seen)
        return replace(self, best=seen)

    def has_all_classes(self, choice: SignatureChoice, answer: Answer) -> bool:
        """Return whether an answer has all classes of the model."""
        if self.ranking is None or not answer.classes:
            return False
        return choice.signature == self.ranking.signature or answer.classes == self.ranking.classes

    def choice_for_more(
        self, request: ImageRequest, choice: SignatureChoice, answer: Answer
    ) -> SignatureChoice | None:
        """Return the signature to ask after a short answer; None if there are no more classes."""
        is_enough = request.top_k is None or not 0 < answer.classes < request.top_k
        return None if is_enough or self.has_all_classes(choice, answer) else self.ranking


FIRST = SignatureChoices(BEST, RANKING)
"""The signatures of mlserve's own models; tried first, to save fetching metadata."""


def choose(metadata: ModelMetadata) -> SignatureChoices:
    """Choose how to ask: labels with scores, else the default signature, else the only one.

    Raises UsageError, saying what the model takes, if no signature takes a single string.
    """
    fits = {
        signature.name: signature
        for signature in metadata.signatures
        if _takes_a_file(signature) and not _takes_text(metadata, signature)
    }
    if not fits:
        raise _no_image_input(metadata)
    scored = [s for s in fits.values() if {"labels", "scores"} <= {spec.name for spec in s.outputs}]
    best_first = sorted(
        scored, key=lambda s: (s.name != BEST.signature, s.name == RANKING.signature)
    )
    chosen = (
        next(iter(best_first), None)
        or fits.get(DEFAULT_SIGNATURE)
        or (next(iter(fits.values())) if len(fits) == 1 else None)
    )
    if chosen is None:
        raise UsageError(
            f"the model {metadata.model} has several signatures that take one string "
            f"({', '.join(fits)}), none of them {DEFAULT_SIGNATURE} or with labels and scores",
            hint=f"export the model with a signature {DEFAULT_SIGNATURE}",
        )
    ranking = next((s for s in scored if s.name == RANKING.signature), None)
    return SignatureChoices(_choice(chosen), _choice(ranking) if ranking else None)


def choose_nameless(metadata: ModelMetadata) -> SignatureChoices:
    """Choose how to ask a model of the Open Inference Protocol, which is one nameless function.

    On mlserve's own servers, chooses the signatures with labels and scores. A model with scores
    only is asked for their classes. Raises UsageError as `choose` does.
    """
    if BEST.signature in metadata.selectable:
        return SignatureChoices(BEST, RANKING if RANKING.signature in metadata.selectable else None)
    choice = replace(choose(metadata).best, signature="")
    outputs = metadata.signatures[0].outputs
    if len(outputs) == 1 and outputs[0].dtype in _FLOATS:
        return SignatureChoices(replace(choice, scores=outputs[0].name))
    return SignatureChoices(choice)


def _choice(signature: Signature) -> SignatureChoice:
    sizes = next((spec.shape for spec in signature.outputs if spec.name == "scores"), None)
    classes = sizes[-1] if sizes else None
    return SignatureChoice(
        signature.name, signature.required[0].name, _one_element(signature) or (), classes=classes
    )


def _takes_a_file(signature: Signature) -> bool:
    is_one_string = [spec.dtype for spec in signature.required] == [DType.BYTES]
    is_for_tensors = signature.method == PREDICT  # the others take strings that are examples
    return is_one_string and is_for_tensors and _one_element(signature) is not None


def _takes_text(metadata: ModelMetadata, signature: Signature) -> bool:
    """Return whether the string is text rather than an image, as far as can be told.

    mlserve exported the model, not as an image classifier, and no output can be a label.
    """
    is_for_tensors = metadata.contract is not None and "pipeline" not in metadata.contract
    return is_for_tensors and all(spec.dtype is not DType.BYTES for spec in signature.outputs)


def _one_element(signature: Signature) -> tuple[int, ...] | None:
    """Return the shape that holds one string in the signature's input, or None."""
    shape = signature.required[0].shape
    if shape is None:
        return (1,)
    return (1,) * len(shape) if all(size in (None, 1) for size in shape) else None


def _no_image_input(metadata: ModelMetadata) -> UsageError:
    if not any(signature.inputs for signature in metadata.signatures):
        return UsageError(
            f"the server lists no input of the model {metadata.model} that predict can send",
            hint="declare its inputs there (MLServer: in model-settings.json); predict needs one "
            "input of type BYTES for the image file",
        )
    offers = "; ".join(map(_offer, metadata.signatures))
    takes_examples = any(signature.method != PREDICT for signature in metadata.signatures)
    example = predict_command(metadata.signatures)
    way = f"give its inputs, for example: {example}; " if example else ""
    return UsageError(
        f"the model {metadata.model} does not take image files; it takes {offers or 'nothing'}",
        hint=f"{way}image files are for models that decode them, as the image "
        "classifiers of mlserve export do" + (_EXAMPLES if takes_examples else ""),
    )


def _offer(signature: Signature) -> str:
    """Describe what the signature takes, and the call that it needs if that is not Predict."""
    takes = f"{signature.name}({', '.join(map(str, signature.inputs))})"
    if signature.method == PREDICT:
        return takes
    return f"{takes} by {signature.method.capitalize()}, as tf.Examples"
