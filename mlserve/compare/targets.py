"""Comparison targets: parse exported models and endpoints from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.client.endpoint import Endpoint
from mlserve.errors import UsageError, readable
from mlserve.hints import did_you_mean
from mlserve.model_choice import choose
from mlserve.served_model import ServedModel
from mlserve.sources import Kind
from mlserve.store import VersionPolicy, check_version

_USAGE = "mlserve compare tfserving onnxruntime photos/"


@dataclass(frozen=True, slots=True)
class ComparedTarget:
    """One thing to compare, by its `name`: an exported model (`served`), or an endpoint.

    `endpoint` is None for an exported model, whose server is not started yet. `model` None is the
    endpoint's only one.
    """

    name: str
    model: str | None
    served: ServedModel | None = None
    endpoint: str | None = None

    @property
    def version(self) -> int | None:
        """The version to compare; None leaves it to the endpoint."""
        return self.served.expected[0] if self.served else None

    @property
    def precision(self) -> str | None:
        """The precision of an exported model; None for an endpoint, and for files of others."""
        manifest = self.artifact.manifest if self.artifact else None
        return None if manifest is None else manifest.computes_in

    @property
    def artifact(self) -> Artifact | None:
        """The exported model's files; None for an endpoint. Raises UsageError (unreadable)."""
        if self.served is None:
            return None
        return Artifact.open(self.served.base_path, self.served.model, self.served.expected[0])


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into those that name targets and, after them, those that name files.

    A target is BACKEND, BACKEND@VERSION, BACKEND/MODEL or BACKEND/MODEL@VERSION, or an endpoint. An
    installed backend's name is a target, even if there is a file of that name (`./name` is the
    file). Raises UsageError for a word that is neither, fewer than two targets, or no file.
    """
    words = list(arguments)
    count = next((i for i, word in enumerate(words) if not _is_target(word)), len(words))
    targets, files = words[:count], words[count:]
    for word in files:
        if not Path(word).exists():
            raise _neither(word)
    if len(targets) < 2:  # noqa: PLR2004  a comparison has two sides
        raise UsageError(
            f"there is nothing to compare with: {len(targets)} of at least 2 targets given",
            hint=f"name two backends or endpoints, then the images or the table: {_USAGE}",
        )
    if not files:
        raise UsageError(
            "no images and no table are given",
            hint=f"name files or folders at the end: {_USAGE}, or rows.csv",
        )
    return targets, files


def resolve(
    words: Sequence[str], models: Sequence[str] = (), store: Path | None = None
) -> list[ComparedTarget]:
    """Return the targets that the words name, with unique names; the first is the reference.

    `models` has no name, one for all targets, or one for each. Without one, an exported target is
    the only exported model in `store`, and an endpoint is asked for the same model as the exported
    ones, or for its only one. Raises NotFound for what is not installed or exported, UsageError for
    an invalid endpoint or version, and for another number of models.
    """
    found = [
        _endpoint(word, model) if _is_endpoint(word) else _exported(word, model, store)
        for word, model in zip(words, _one_each(models, words), strict=True)
    ]
    exported = {target.model for target in found if target.served}
    default = exported.pop() if len(exported) == 1 else None
    found = [replace(target, model=target.model or default) for target in found]
    return [_numbered(target, found[:index]) for index, target in enumerate(found)]


def require_image_classifiers(targets: Sequence[ComparedTarget], image: str) -> None:
    """Raise UsageError for an exported model that does not take image files."""
    for target in targets:
        if _kind(target) is Kind.TENSORS:
            raise UsageError(
                f"{target.name} is a model of tensors, and {readable(image)} is not a table",
                hint="give the rows to ask about: mlserve compare TARGET TARGET... rows.csv",
            )


def require_models_of_tensors(targets: Sequence[ComparedTarget], table: str) -> None:
    """Raise UsageError for an exported model that takes image files."""
    for target in targets:
        if _kind(target) is Kind.IMAGE_CLASSIFIER:
            raise UsageError(
                f"{target.name} is an image classifier, and {readable(table)} is a table",
                hint=f"give image files or folders: {_USAGE}; or name one of the model's other "
                "signatures with --signature",
            )


def _kind(target: ComparedTarget) -> Kind | None:
    """Return the kind of an exported model; None for an endpoint, and for files of others."""
    manifest = target.artifact.manifest if target.artifact else None
    return manifest.kind if manifest else None


def _one_each(models: Sequence[str], words: Sequence[str]) -> Sequence[str | None]:
    if len(models) <= 1:
        return [models[0] if models else None] * len(words)
    if len(models) != len(words):
        raise UsageError(
            f"{len(models)} models are named for {len(words)} targets: {', '.join(models)}",
            hint="give --model once for all targets, or once for each, in their order",
        )
    return models


def _is_target(word: str) -> bool:
    name = word.partition("@")[0]
    if name in plugins.installed():
        return True
    if Path(word).exists():
        return False
    return name.partition("/")[0] in plugins.installed() or _is_endpoint(word)


def _is_endpoint(word: str) -> bool:
    return ":" in word


def _endpoint(word: str, model: str | None) -> ComparedTarget:
    Endpoint.parse(word)
    return ComparedTarget(word, model, endpoint=word)


def _exported(word: str, model: str | None, store: Path | None) -> ComparedTarget:
    name, _, version = word.partition("@")
    backend, slash, own_model = name.partition("/")
    plugins.backend(backend)
    model = own_model if slash else model
    versions = VersionPolicy((_number(word, version),)) if "@" in word else VersionPolicy()
    chosen = choose(backend, model, None, versions, store)
    # Pin the version, so that exports during the comparison do not change it.
    pinned = replace(chosen, versions=VersionPolicy(chosen.expected))
    return ComparedTarget(f"{name}@{chosen.expected[0]}", chosen.model, pinned)


def _number(word: str, version: str) -> int:
    if not (version.isascii() and version.isdigit()):
        raise UsageError(
            f"{word!r} does not name a version: {version!r} is not a number",
            hint="give BACKEND@VERSION, for example tfserving@2, or BACKEND/MODEL@VERSION",
        )
    return check_version(int(version))


def _numbered(target: ComparedTarget, before: Sequence[ComparedTarget]) -> ComparedTarget:
    """Return the target, with a number in its name if an earlier one has the same name."""
    times = sum(other.name == target.name for other in before)
    return replace(target, name=f"{target.name} ({times + 1})") if times else target


def _neither(word: str) -> UsageError:
    known = plugins.backend_names()
    return UsageError(
        f"{word!r} is not a file, a folder, an endpoint (host:port) or an installed backend "
        f"(installed: {', '.join(known) or 'none'})",
        hint=did_you_mean(word.partition("@")[0], known)
        + f"name the targets first, then the images or the table: {_USAGE}",
    )
