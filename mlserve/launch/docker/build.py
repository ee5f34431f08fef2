"""Builds the image of an artifact: writes the Dockerfile and its context, runs `docker build`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlserve import __version__
from mlserve.artifact import Artifact
from mlserve.backend import Backend, Listen, ServerSpec
from mlserve.errors import BuildFailed, UsageError
from mlserve.export import no_progress
from mlserve.launch.docker import cli, dockerfile, images
from mlserve.launch.docker.images import Tell
from mlserve.launch.docker.packages import packages_of, roots_of, write_wheels
from mlserve.launch.docker.plan import server_spec
from mlserve.launch.launcher import ServerKind
from mlserve.launch.plan import Serving
from mlserve.sources import Progress

_TAIL = 15
_STEP = re.compile(
    r"^(?:Step (?P<n>\d+)/(?P<m>\d+) : |#\d+ \[(?:\S+ +)?(?P<i>\d+)/(?P<k>\d+)\] )(?P<what>.*)"
)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """An image to build. None takes the default: the tag of the artifact, the usual base image.

    `options` go to `docker build`; `wheel_dir` holds wheels of mlserve to install instead of those
    that are made here.
    """

    backend: Backend
    artifact: Artifact
    tag: str | None = None
    kind: ServerKind = ServerKind.AUTO
    base_image: str | None = None
    options: tuple[str, ...] = ()
    wheel_dir: Path | None = None

    @property
    def image_tag(self) -> str:
        """The tag that was asked for, or the artifact's."""
        own = images.image_tag(self.backend.name, self.artifact.model, self.artifact.version)
        return self.tag or own

    @property
    def spec(self) -> ServerSpec | None:
        """The server of another maker to put into the image; None for ours.

        Raises UsageError when another maker's is asked for and none is known.
        """
        if self.kind is ServerKind.EMBEDDED:
            return None
        specs = self.backend.external_servers(
            self.artifact.path.parent, self.artifact.model, (), Listen("0.0.0.0", 8500, 8501)
        )
        spec = next((spec for spec in specs if spec.image is not None), None)
        if spec is None and self.kind is ServerKind.NATIVE:
            raise UsageError(
                f"the backend {self.backend.name!r} knows no image of another maker",
                hint="take --server embedded",
            )
        return spec


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was built: its tag and its id (`sha256:...`)."""

    tag: str
    id: str
    base_image: str
    log: str


class BuildLogged(BuildFailed):
    """A build that failed; `log` is all that the builder said."""

    def __init__(self, message: str, *, hint: str | None = None, log: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log


def ensure_image(backend: Backend, serving: Serving, tell: Tell) -> None:
    """Returns when the image of that (pinned) serving is there: pulls or builds it if it must.

    Raises NoEngine, BuildFailed, and PluginError for an architecture without an image.
    """
    spec = server_spec(backend, serving)
    if serving.image is not None:
        images.require_there(serving.image, tell)
    elif spec is not None:
        images.require_published(spec, tell)
    else:
        _ensure_built(backend, serving, tell)


def build(request: BuildRequest, progress: Progress = no_progress) -> Built:
    """The image of an artifact, built.

    Raises NoEngine, BuildFailed, and PluginError for an architecture without a base image.
    """
    base, spec = base_image(request), request.spec
    if spec is not None and request.base_image is None:
        images.require_published(spec, lambda line: progress(line, 0, None))
    else:
        images.require_there(base, lambda line: progress(line, 0, None))
    with tempfile.TemporaryDirectory(prefix="mlserve-build-") as folder:
        context = Path(folder) / "context"
        write_context(request, context, progress)
        return _docker_build(request, base, context, progress)


def base_image(request: BuildRequest) -> str:
    """The image that this one is built on."""
    if request.base_image is not None:
        return request.base_image
    spec = request.spec
    return dockerfile.PYTHON_IMAGE if spec is None or spec.image is None else spec.image.name


def write_context(request: BuildRequest, into: Path, progress: Progress = no_progress) -> None:
    """Writes the Dockerfile and all that it copies into the empty or absent folder `into`.

    Raises UsageError for a folder that is not empty or cannot be written, and BuildFailed.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        if any(into.iterdir()):
            raise UsageError(f"{into} is not empty", hint="give a new folder")
        _copy_readable(request.artifact.path, into / "model")
        (into / "Dockerfile").write_text(_dockerfile(request))
        if request.spec is None:
            progress("making the wheels", 0, None)
            _write_install(request, into / "install")
    except OSError as error:
        raise UsageError(
            f"{error.filename or into} cannot be read or written: {error.strerror or error}",
            hint="make room or set the rights",
        ) from error


def _ensure_built(backend: Backend, serving: Serving, tell: Tell) -> None:
    tag = images.artifact_tag(serving)
    artifact = Artifact.open(serving.base_path, serving.model, serving.expected[-1])
    digest = images.folder_digest(artifact.path)
    expected = {images.DIGEST_LABEL: digest, images.MLSERVE_LABEL: __version__}
    found = cli.inspect("image", [tag])
    labels = (found[0].get("Config", {}).get("Labels") or {}) if found else {}
    if all(labels.get(key) == value for key, value in expected.items()):
        return
    tell(f"building the image {tag}")
    build(BuildRequest(backend, artifact, tag=tag))


def _dockerfile(request: BuildRequest) -> str:
    artifact, spec, base = request.artifact, request.spec, base_image(request)
    labels = _labels(request)
    if spec is not None:
        return dockerfile.of_other_maker(spec, artifact.version, base, labels)
    return dockerfile.of_ours(request.backend.name, artifact.model, artifact.version, base, labels)


def _labels(request: BuildRequest) -> dict[str, str]:
    artifact = request.artifact
    labels = {
        "org.opencontainers.image.title": f"{artifact.model} served by {request.backend.name}",
        "org.opencontainers.image.description": "An image classifier, exported by mlserve.",
        "org.opencontainers.image.version": str(artifact.version),
        "org.opencontainers.image.base.name": base_image(request),
        images.BACKEND_LABEL: request.backend.name,
        images.MODEL_LABEL: artifact.model,
        images.VERSION_LABEL: str(artifact.version),
        images.DIGEST_LABEL: images.folder_digest(artifact.path),
        images.MLSERVE_LABEL: __version__,
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


def _copy_readable(source: Path, target: Path) -> None:
    """Copies a folder so that every user of the image can read it."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _docker_build(request: BuildRequest, base: str, context: Path, progress: Progress) -> Built:
    id_file = context.with_name("id")
    command = cli.argv("build", "--tag", request.image_tag, "--iidfile", str(id_file))
    command += [*request.options, str(context)]
    lines: list[str] = []
    code = _run(command, lambda line: _note(line, lines, progress))
    log = "\n".join(lines)
    if code != 0:
        refused = cli.refusal(("build",), "" if any(map(_STEP.match, lines)) else log)
        if isinstance(refused, cli.NoEngine):
            raise refused
        end = "\n".join(f"  {line}" for line in deque(lines, _TAIL))
        raise BuildLogged(
            f"the image {request.image_tag} could not be built; the end of the log:\n{end}",
            hint="--build-option=--network=host helps where the builder's own network reaches no "
            "index; --file-only DIR writes what is built, to be looked at and built by hand",
            log=log,
        )
    return Built(request.image_tag, id_file.read_text().strip(), base, log)


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
