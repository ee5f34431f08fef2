"""The image that a server's container needs: there already, pulled, or built of the artifact."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlserve.backend import Backend, ServerSpec
from mlserve.errors import BuildFailed, PluginError, UsageError
from mlserve.launch.docker.cli import EngineRefused, docker, engine, inspect
from mlserve.launch.docker.plan import server_spec
from mlserve.launch.plan import Serving, Versions
from mlserve.settings import flag_of

BACKEND_LABEL = "mlserve.backend"
MODEL_LABEL = "mlserve.model"
VERSION_LABEL = "mlserve.version"
DIGEST_LABEL = "mlserve.digest"
MLSERVE_LABEL = "mlserve.mlserve"

_PULL_TIMEOUT = 1800.0
Tell = Callable[[str], None]


def image_tag(backend: str, model: str, version: int) -> str:
    """`mlserve-<backend>-<model>:<version>`, in the letters that an image's name may have."""
    name = re.sub(r"[^a-z0-9_.-]", "-", f"mlserve-{backend}-{model}".lower())
    name = re.sub(r"([_.-])[_.-]+", r"\1", name).strip("_.-")
    return f"{name}:{version}"


def artifact_tag(serving: Serving) -> str:
    """The tag of the image of the one version that is served."""
    return image_tag(serving.backend, serving.model, serving.expected[-1])


def require_regarded(backend: Backend, serving: Serving) -> None:
    """Raises UsageError for what the container of this backend cannot do."""
    if server_spec(backend, serving) is None:
        if serving.versions.are_all or len(serving.versions.numbers) > 1:
            raise UsageError(
                "an image holds one version of a model",
                hint="choose it with --version N, or take --launcher embedded",
            )
        return
    given = [name for name in ("threads", "provider", "instances") if getattr(serving, name)]
    given += serving.settings.changed
    if given:
        raise UsageError(
            f"the server in the image takes no {flag_of(given[0])}",
            hint="take --launcher embedded, or leave it out",
        )
    if serving.versions.are_all:
        raise UsageError(
            "the server in the image cannot follow all versions",
            hint="name them (--version 1 --version 2), or take --launcher embedded",
        )


def pinned(backend: Backend, serving: Serving) -> Serving:
    """What an image can serve of this: an image of ours holds the version that it was built of."""
    if server_spec(backend, serving) is not None:
        return serving
    return replace(serving, versions=Versions(serving.expected[-1:]))


def require_published(spec: ServerSpec, tell: Tell) -> None:
    """Returns when another maker's image is there. Raises PluginError, BuildFailed."""
    assert spec.image is not None
    if not _is_there(spec.image.name):
        architecture = engine().architecture
        if architecture not in spec.image.architectures:
            raise PluginError(
                f"{spec.image.name} is published for {', '.join(spec.image.architectures)} and "
                f"this engine runs {architecture}",
                hint=spec.install_hint,
            )
    require_there(spec.image.name, tell)


def require_there(image: str, tell: Tell) -> None:
    """Returns when the image is there; one that is not is pulled. Raises BuildFailed."""
    if _is_there(image):
        return
    tell(f"pulling {image}")
    try:
        docker("pull", "--quiet", image, timeout=_PULL_TIMEOUT)
    except EngineRefused as error:
        reason = error.message.removeprefix("docker pull failed: ")
        raise BuildFailed(
            f"the image {image} is not there and cannot be pulled: {reason}",
            hint="look at the name and the network; `docker load` brings an image from a file, and "
            "--image (of up) or --base-image (of build) names another",
        ) from error


def folder_digest(folder: Path) -> str:
    """`sha256:<hex>` of the names and bytes of every file in a version's folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + inner)
    return "sha256:" + total.hexdigest()


def _is_there(image: str) -> bool:
    return bool(inspect("image", [image]))
