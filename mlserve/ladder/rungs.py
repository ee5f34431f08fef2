"""The rungs of a ladder as data: which versions they are, and whether they can be one ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlserve.artifact import Manifest
from mlserve.errors import ModelLoadFailed, UsageError, shortened
from mlserve.load_options import LadderPolicy
from mlserve.store import Store, check_name, check_version
from mlserve.tensors import DType, Signature

SCORE_OUTPUTS = ("probabilities", "scores")
"""The outputs of a model of tensors that hold a score for each class."""
_FLOATS = (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64)
_FORM = "name a version such as onnxruntime/MODEL@3, the cheapest first"
_FEWEST = 2


class Reference(NamedTuple):
    """An exported version: `onnxruntime/efficientnet_lite0@3`."""

    backend: str
    model: str
    version: int

    def __str__(self) -> str:
        return f"{self.backend}/{self.model}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read the form of `str`. Raises UsageError."""
        backend, slash, rest = text.partition("/")
        model, at, version = rest.rpartition("@")
        if not (slash and at and version.isascii() and version.isdigit()):
            raise UsageError(f"{shortened(text)!r} is not a rung of a ladder", hint=_FORM)
        check_name("backend", backend)
        return cls(backend, check_name("model", model), check_version(int(version)))


@dataclass(frozen=True, slots=True)
class Rung:
    """A version of a ladder.

    `name` is what answers are marked with: the precision, with the backend if others have the same
    one. `difference` is the largest from the reference that its certificate names; the last rung
    needs none.
    """

    reference: Reference
    name: str
    difference: float | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs, the cheapest first, and what becomes of answers that are left uncertain."""

    rungs: tuple[Rung, ...]
    policy: LadderPolicy

    @property
    def top(self) -> Rung:
        """The rung whose answers count without a condition."""
        return self.rungs[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the ladder as servers and commands show it."""
        return {
            "rungs": [{"name": r.name, "version": str(r.reference)} for r in self.rungs],
            "policy": self.policy.value,
        }


def split(text: str) -> list[str]:
    """Return the parts of the value of `--ladder`. Raises UsageError for fewer than two."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < _FEWEST or not all(parts):
        raise UsageError(
            f"{shortened(text)!r} is not a ladder: it takes at least two rungs, separated by "
            "commas",
            hint="give for example --ladder int8,fp32",
        )
    for part in parts:
        if parts.count(part) > 1:
            raise UsageError(
                f"the ladder {shortened(text)!r} has {shortened(part)} twice",
                hint="name each rung once",
            )
    return parts


def read_ladder(text: str, store: Store, policy: LadderPolicy | None) -> Ladder:
    """Return the ladder of these references, once it is sure that they can be one.

    Raises UsageError for another text, NotFound for a version that is not there, and
    ModelLoadFailed for versions that are no ladder.
    """
    references = [Reference.parse(part) for part in split(text)]
    manifests = [_manifest(r, store) for r in references]
    _require_alike(references, manifests)
    _require_scores(references[-1], manifests[-1])
    for reference, manifest in list(zip(references, manifests, strict=True))[:-1]:
        _require_certificate(reference, manifest)
    names = _names(references, manifests)
    rungs = [
        Rung(r, name, None if m.certificate is None else m.certificate.difference)
        for r, m, name in zip(references, manifests, names, strict=True)
    ]
    return Ladder(tuple(rungs), policy or LadderPolicy.REFUSE)


def store_of(base_path: Path) -> Store:
    """Return the store that a model's folder is in."""
    return Store(base_path.parent.parent)


def scores_of(signature: Signature) -> str | None:
    """Return the output of a model of tensors that has the scores of at least two classes.

    None if it has none, or no rows that can be taken apart.
    """
    if not signature.has_rows:
        return None
    for spec in signature.outputs:
        if spec.name in SCORE_OUTPUTS and spec.dtype in _FLOATS:
            sizes = spec.shape or ()
            if len(sizes) == _FEWEST and (sizes[1] is None or sizes[1] >= _FEWEST):
                return spec.name
    return None


def _manifest(reference: Reference, store: Store) -> Manifest:
    artifact = store.find(*reference)
    if artifact.manifest is None:
        raise ModelLoadFailed(
            f"{reference} has no manifest, so nothing is known of its precision",
            hint="export the model with mlserve",
        )
    return artifact.manifest


def _require_alike(references: Sequence[Reference], manifests: Sequence[Manifest]) -> None:
    """Raise ModelLoadFailed unless a client cannot tell the rungs apart but by their scores."""
    top, first = references[-1], manifests[-1]
    for reference, manifest in zip(references, manifests, strict=True):
        if manifest.pipeline != first.pipeline:
            what = "image pipelines"
        elif set(manifest.signatures) != set(first.signatures):
            what = "signatures"
        elif manifest.labels_digest != first.labels_digest:
            what = "labels"
        elif manifest.has_random_weights != first.has_random_weights:
            what = "weights"
        else:
            continue
        raise ModelLoadFailed(
            f"{reference} and {top} are not rungs of one ladder: their {what} differ",
            hint="export both from the same model, with the same options but for --precision",
        )


def _require_scores(reference: Reference, manifest: Manifest) -> None:
    """Raise ModelLoadFailed for a model without scores, or whose rows belong together."""
    if manifest.pipeline is not None:
        return
    if manifest.has_dependent_rows:
        raise ModelLoadFailed(
            f"{reference} cannot be on a ladder: its rows depend on each other, and on a ladder "
            "some of them climb without the others",
            hint="serve it without --ladder",
        )
    for signature in manifest.signatures:
        if scores_of(signature) is None:
            outputs = ", ".join(str(spec) for spec in signature.outputs)
            raise ModelLoadFailed(
                f"{reference} cannot be on a ladder: its signature {signature.name!r} has no "
                f"scores of classes that could be close ({outputs})",
                hint=f"a ladder takes image classifiers, and models with an output "
                f"{' or '.join(SCORE_OUTPUTS)} of floats [?,CLASSES]; serve it without --ladder",
            )


def _require_certificate(reference: Reference, manifest: Manifest) -> None:
    if manifest.certificate is None:
        raise ModelLoadFailed(
            f"{reference} has no certificate, so nobody knows where its labels can change",
            hint=f"export it again: mlserve export --backend {reference.backend} --model "
            f"{reference.model} --precision {manifest.precision}",
        )
    _require_useful(reference, manifest.certificate.difference)


def _require_useful(reference: Reference, difference: float) -> None:
    """Raise ModelLoadFailed for a rung that would have every request climb."""
    if 2 * difference >= 1:
        raise ModelLoadFailed(
            f"{reference} cannot be on a ladder: its scores were up to {difference:.2g} from the "
            f"right ones, so that a label is only certain with a margin above "
            f"{2 * difference:.2g}, and no margin is above 1",
            hint="export it with more or better --calibration inputs, or in another precision",
        )


def _names(references: Sequence[Reference], manifests: Sequence[Manifest]) -> list[str]:
    """Return a name for each rung, as short as they are different. Each is a token of HTTP."""
    short = [manifest.precision.value for manifest in manifests]
    if len(set(short)) == len(short):
        return short
    longer = [f"{r.backend}/{name}" for r, name in zip(references, short, strict=True)]
    if len(set(longer)) == len(longer):
        return longer
    return [f"{name}/{r.model}/{r.version}" for r, name in zip(references, longer, strict=True)]
