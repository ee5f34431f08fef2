"""Container images of servers: found, pulled, or built from the artifact."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mlserve import __version__
from mlserve.artifact import Artifact
from mlserve.backend import Backend, ServerSpec
from mlserve.errors import BuildFailed, PluginError, UsageError
from mlserve.export import no_progress
from mlserve.launch.docker import dockerfile, engine
from mlserve.launch.docker.engine import EngineRefused, docker, engine_info, inspect
from mlserve.launch.docker.packages import packages_of, roots_of, write_wheels
from mlserve.launch.docker.plan import published, require_inside, server_spec
from mlserve.launch.records import Tell
from mlserve.options import flag_of
from mlserve.serving import Serving
from mlserve.settings import AUTO, EMBEDDED, NATIVE
from mlserve.sources import Progress
from mlserve.store import VersionPolicy

BACKEND_LABEL = "mlserve.backend"
MODEL_LABEL = "mlserve.model"
VERSION_LABEL = "mlserve.version"
DIGEST_LABEL = "mlserve.digest"
MLSERVE_LABEL = "mlserve.mlserve"

_PULL_TIMEOUT = 1800.0
_TAIL = 15
_STEP = re.compile(
    r"^(?:Step (?P<n>\d+)/(?P<m>\d+) : |#\d+ \[(?:\S+ +)?(?P<i>\d+)/(?P<k>\d+)\] )(?P<what>.*)"
)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """An image to build. None means the default: the artifact's tag, the usual base image.

    `options` go to `docker build`; `wheel_dir` holds mlserve wheels to install instead of those
    built here. `artifact_only` puts the version's files on the base image, and no server.
    """

    backend: Backend
    artifact: Artifact
    tag: str | None = None
    kind: str = AUTO
    base_image: str | None = None
    options: tuple[str, ...] = ()
    wheel_dir: Path | None = None
    artifact_only: bool = False

    @property
    def image_tag(self) -> str:
        """The requested tag, or the artifact's."""
        model, version = self.artifact.model, self.artifact.version
        if self.artifact_only:
            return self.tag or artifact_image_tag(self.backend.name, model, version)
        return self.tag or image_tag(self.backend.name, model, version)

    @property
    def spec(self) -> ServerSpec | None:
        """The third-party server to put into the image; None for mlserve's own.

        Raises UsageError if a third-party server is requested and none is known.
        """
        if self.artifact_only or self.kind == EMBEDDED:
            return None
        spec = published(self.backend, self.artifact.path.parent, self.artifact.model)
        if spec is None and self.kind == NATIVE:
            raise UsageError(
                f"the backend {self.backend.name!r} has no third-party image",
                hint="use --server embedded",
            )
        return spec


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was built: its tag and its id (`sha256:...`)."""

    tag: str
    id: str
    base_image: str


class BuildLogged(BuildFailed):
    """The image could not be built; `log` is all that the builder printed."""

    def __init__(self, message: str, *, hint: str | None = None, log: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log


def image_tag(backend: str, model: str, version: int) -> str:
    """Return `mlserve-<backend>-<model>:<version>`, in the characters that image names allow."""
    name = re.sub(r"[^a-z0-9_.-]", "-", f"mlserve-{backend}-{model}".lower())
    name = re.sub(r"([_.-])[_.-]+", r"\1", name).strip("_.-")
    return f"{name}:{version}"


def artifact_tag(serving: Serving) -> str:
    """Return the tag of the image of the one version that is served."""
    model = serving.only
    return image_tag(model.backend, model.model, model.expected[-1])


def require_regarded(backend: Backend, serving: Serving) -> None:
    """Raise UsageError for options that this backend's container does not support."""
    if server_spec(backend, serving) is None:
        require_inside(serving)
        versions = serving.only.versions
        if versions.serves_all or len(versions.versions) > 1:
            raise UsageError(
                "an image holds one version of a model",
                hint="choose it with --version N, or use --launcher embedded",
            )
        return
    if serving.changed:
        raise UsageError(
            f"the server in the image does not take {flag_of(serving.changed[0])}",
            hint="use --launcher embedded, or leave it out",
        )
    if serving.only.versions.serves_all:
        raise UsageError(
            "the server in the image cannot follow all versions",
            hint="name them (--version 1 --version 2), or use --launcher embedded",
        )


def pinned(backend: Backend, serving: Serving) -> Serving:
    """Return the serving an image supports: an image of ours holds one version."""
    if server_spec(backend, serving) is not None:
        return serving
    model = serving.only
    return replace(serving, models=(replace(model, versions=VersionPolicy(model.expected[-1:])),))


def ensure_image(backend: Backend, serving: Serving, tell: Tell) -> None:
    """Make sure that the image of this (pinned) serving exists; pull or build it if needed.

    Raises NoEngine, BuildFailed, and PluginError for an architecture without an image.
    """
    spec = server_spec(backend, serving)
    if serving.image is not None:
        _require_there(serving.image, tell)
    elif spec is not None:
        _require_published(spec, tell)
    else:
        _ensure_built(backend, serving, tell)


def build(request: BuildRequest, progress: Progress = no_progress) -> Built:
    """Build the image of an artifact.

    Raises NoEngine, BuildFailed, and PluginError for an architecture without a base image.
    """
    base, spec = base_image(request), request.spec
    if spec is not None and request.base_image is None:
        _require_published(spec, lambda line: progress(line, 0, None))
    else:
        _require_there(base, lambda line: progress(line, 0, None))
    with tempfile.TemporaryDirectory(prefix="mlserve-build-") as folder:
        context = Path(folder) / "context"
        write_context(request, context, progress)
        return _docker_build(request, base, context, progress)


def base_image(request: BuildRequest) -> str:
    """Return the image that this one is built on."""
    if request.base_image is not None:
        return request.base_image
    spec = request.spec
    return dockerfile.PYTHON_IMAGE if spec is None or spec.image is None else spec.image.name


def write_context(request: BuildRequest, into: Path, progress: Progress = no_progress) -> None:
    """Write the Dockerfile and everything it copies into `into`, an empty or absent folder.

    Raises UsageError for a folder that is not empty or cannot be written, ModelLoadFailed for a
    version whose files are not as exported, and BuildFailed.
    """
    request.artifact.require_whole()
    try:
        into.mkdir(parents=True, exist_ok=True)
        if any(into.iterdir()):
            raise UsageError(f"{into} is not empty", hint="give a new folder")
        (into / "Dockerfile").write_text(_dockerfile(request))
        if request.artifact_only:
            copy_versions(request.artifact, into / "models")
            return
        _copy_readable(request.artifact.path, into / "model")
        if request.spec is None:
            progress("making the wheels", 0, None)
            _write_install(request, into / "install")
    except OSError as error:
        raise UsageError(
            f"{error.filename or into} cannot be read or written: {error.strerror or error}",
            hint="make room or fix the permissions",
        ) from error


def _require_published(spec: ServerSpec, tell: Tell) -> None:
    """Make sure that a third-party server's image exists. Raises PluginError, BuildFailed."""
    assert spec.image is not None
    if not _is_there(spec.image.name):
        architecture = engine_info().architecture
        if architecture not in spec.image.architectures:
            raise PluginError(
                f"{spec.image.name} is published for {', '.join(spec.image.architectures)} and "
                f"this engine runs {architecture}",
                hint=spec.install_hint,
            )
    _require_there(spec.image.name, tell)


def _require_there(image: str, tell: Tell) -> None:
    """Pull the image unless it exists. Raises BuildFailed."""
    if _is_there(image):
        return
    tell(f"pulling {image}")
    try:
        docker("pull", "--quiet", image, timeout=_PULL_TIMEOUT)
    except EngineRefused as error:
        reason = error.message.removeprefix("docker pull failed: ")
        raise BuildFailed(
            f"the image {image} is not there and cannot be pulled: {reason}",
            hint="check the name and the network; `docker load` brings an image from a file, and "
            "--image (of up) or --base-image (of build) names another",
        ) from error


def artifact_image_tag(backend: str, model: str, version: int) -> str:
    """Return the usual tag of an image that holds only a version's files."""
    return image_tag(f"artifact-{backend}", model, version)


def artifact_labels(artifact: Artifact, backend: str) -> dict[str, str]:
    """Return the labels of an image that holds only the files of this version."""
    return _labels_of(artifact, backend) | {
        "org.opencontainers.image.title": f"{artifact.model}, version {artifact.version}",
        "org.opencontainers.image.description": "The files of a model exported by mlserve, without "
        "a server.",
    }


def folder_digest(folder: Path) -> str:
    """Return `sha256:<hex>` over the names and bytes of every file in a version's folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + inner)
    return "sha256:" + total.hexdigest()


def _is_there(image: str) -> bool:
    return bool(inspect("image", [image]))


def _ensure_built(backend: Backend, serving: Serving, tell: Tell) -> None:
    tag = artifact_tag(serving)
    model = serving.only
    artifact = Artifact.open(model.base_path, model.model, model.expected[-1])
    digest = folder_digest(artifact.path)
    expected = {DIGEST_LABEL: digest, MLSERVE_LABEL: __version__}
    found = engine.inspect("image", [tag])
    labels = (found[0].get("Config", {}).get("Labels") or {}) if found else {}
    if all(labels.get(key) == value for key, value in expected.items()):
        return
    tell(f"building the image {tag}")
    build(BuildRequest(backend, artifact, tag=tag))


def _dockerfile(request: BuildRequest) -> str:
    artifact, spec, base = request.artifact, request.spec, base_image(request)
    labels = _labels(request)
    if request.artifact_only:
        return dockerfile.of_artifact(base, labels)
    if spec is not None:
        return dockerfile.of_published(spec, artifact.version, base, labels)
    return dockerfile.of_built(request.backend.name, artifact.model, artifact.version, base, labels)


def _labels(request: BuildRequest) -> dict[str, str]:
    artifact, backend = request.artifact, request.backend.name
    if request.artifact_only:
        base = {"org.opencontainers.image.base.name": base_image(request)}
        return artifact_labels(artifact, backend) | base
    return {
        "org.opencontainers.image.title": f"{artifact.model} served by {backend}",
        "org.opencontainers.image.description": "A model, exported by mlserve.",
        "org.opencontainers.image.base.name": base_image(request),
        **_labels_of(artifact, backend),
    }


def _labels_of(artifact: Artifact, backend: str) -> dict[str, str]:
    labels = {
        "org.opencontainers.image.version": str(artifact.version),
        BACKEND_LABEL: backend,
        MODEL_LABEL: artifact.model,
        VERSION_LABEL: str(artifact.version),
        DIGEST_LABEL: folder_digest(artifact.path),
        MLSERVE_LABEL: __version__,
    }
    if artifact.manifest is not None:
        labels["org.opencontainers.image.created"] = artifact.manifest.created
        labels["mlserve.random_weights"] = str(artifact.manifest.has_random_weights).lower()
    return labels


def _write_install(request: BuildRequest, into: Path) -> None:
    wheels, roots = into / "wheels", roots_of(request.backend.name)
    write_wheels(roots, wheels, request.wheel_dir)
    packages = packages_of(roots, wheels)
    files = {
        "constraints.txt": packages.constraints,
        "dependencies.txt": packages.foreign,
        "own.txt": packages.own,
    }
    for name, lines in files.items():
        (into / name).write_text("".join(f"{line}\n" for line in lines))
    shutil.copyfile(dockerfile.HEALTHCHECK, into / "healthcheck.py")
    (wheels / "README").write_text("Wheels of what is on no package index.\n")


def copy_versions(artifact: Artifact, into: Path) -> None:
    """Write the folder of versions of an image without a server, as `artifact_image` has it."""
    into.mkdir()
    _copy_readable(artifact.path, into / str(artifact.version))
    if not artifact.model.isdecimal():
        (into / artifact.model).symlink_to(".")


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a folder, readable for every user of the image."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _docker_build(request: BuildRequest, base: str, context: Path, progress: Progress) -> Built:
    id_file = context.with_name("id")
    command = engine.argv("build", "--tag", request.image_tag, "--iidfile", str(id_file))
    command += [*request.options, str(context)]
    lines: list[str] = []
    code = _run(command, lambda line: _note(line, lines, progress))
    log = "\n".join(lines)
    if code != 0:
        refused = engine.refusal(("build",), "" if any(map(_STEP.match, lines)) else log)
        if isinstance(refused, engine.NoEngine):
            raise refused
        end = "\n".join(f"  {line}" for line in deque(lines, _TAIL))
        raise BuildLogged(
            f"the image {request.image_tag} could not be built; the end of the log:\n{end}",
            hint="try --build-option=--network=host if the builder's own network cannot reach a "
            "package index; --file-only DIR writes the files, to inspect and build by hand",
            log=log,
        )
    return Built(request.image_tag, id_file.read_text().strip(), base)


def _run(command: list[str], on_line: Callable[[str], None]) -> int:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "BUILDKIT_PROGRESS": "plain"},
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in _lines(process):
                on_line(line)
        except BaseException:
            process.kill()
            raise
        return process.wait()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")


def _note(line: str, lines: list[str], progress: Progress) -> None:
    lines.append(line)
    found = _STEP.match(line)
    if found is not None:
        done, total = int(found["n"] or found["i"]), int(found["m"] or found["k"])
        progress(found["what"], done - 1, total)
