"""What to serve: the model, its folder and its versions, told from what the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact, without_manifest
from mlserve.choosing import DEFAULT_BACKEND, backend_of_files, way_to_export
from mlserve.errors import MlserveError, NotFound, UsageError
from mlserve.hints import nearest
from mlserve.launch.records import ServerRecord, server_name
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.store import Store, check_name, check_version, version_numbers

_MOST_DIGITS, _SHOWN = 400, 40


@dataclass(frozen=True, slots=True)
class Versions:
    """Which versions to serve: `numbers`, or every one there is, or (neither) the latest one.

    The latest and all are followed as new version folders come.
    """

    numbers: tuple[int, ...] = ()
    are_all: bool = False

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Versions:
        """Reads the values of `--version`: numbers, or `all` alone. Raises UsageError."""
        if list(texts) == ["all"]:
            return cls(are_all=True)
        for text in texts:
            if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
                raise UsageError(
                    f"{text[:_SHOWN]!r} is not a version",
                    hint="give a number (several: --version 1 --version 2), or --version all",
                )
        return cls(tuple(sorted({check_version(int(text)) for text in texts})))


@dataclass(frozen=True, slots=True)
class Serving:
    """A model to serve: versions below `base_path`, all checked to be there.

    `expected` are the versions that must answer before the server counts as ready. `image` is the
    container image to run in place of the usual one, `docker_options` go to `docker run`.
    """

    backend: str
    model: str
    base_path: Path
    versions: Versions
    expected: tuple[int, ...]
    has_random_weights: bool
    takes_images: bool
    threads: int | None = None
    provider: str | None = None
    instances: int | None = None
    settings: ServerSettings = DEFAULT_SETTINGS
    image: str | None = None
    docker_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return server_name(self.backend, self.model)

    def is_served_by(self, record: ServerRecord) -> bool:
        """Whether that server was started to serve the same thing in the same way."""
        wanted = (self.base_path, self.versions, self.threads, self.provider, self.instances)
        image = self.image or record.image
        return (*wanted, self.settings, image, self.docker_options) == (
            record.base_path,
            Versions(record.versions, record.all_versions),
            record.threads,
            record.provider,
            record.instances,
            record.settings,
            record.image,
            record.docker_options,
        )


def choose(
    backend: str | None,
    model: str | None,
    path: Path | None,
    versions: Versions,
    store: Path | None = None,
) -> Serving:
    """The model to serve: the folder `path`, or the one exported model in `store` that fits.

    The files in `path` say which backend they are for. `store` None is the user's own. Raises
    NotFound when there is none and UsageError when there are several, or for the wrong backend.
    """
    if path is not None and store is not None:
        raise UsageError(
            "--path names a model's folder and --store a folder of exported models",
            hint="give only one of the two",
        )
    if path is not None:
        base = path.expanduser().absolute()
        expected = _expected(base, versions)
        newest = Artifact.open(base, model or base.name, expected[-1])
        chosen = backend_of_files(newest, backend)
        return _serving(chosen, model or base.name, base, versions)
    there = Store(store)
    backend, model = _exported_choice(backend, model, there)
    return _serving(backend, model, there.base_path(backend, model), versions)


def exported(store: Store | None = None) -> list[tuple[str, str]]:
    """The backend and model of each exported model in the store, by name."""
    store = store or Store()
    return [(backend, model) for backend in store.backends() for model in store.models(backend)]


def _exported_choice(backend: str | None, model: str | None, store: Store) -> tuple[str, str]:
    known = exported(store)
    fits = [(b, m) for b, m in known if backend in (None, b) and model in (None, m)]
    if backend is None and len(fits) > 1:
        fits = [pair for pair in fits if pair[0] == DEFAULT_BACKEND] or fits
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UsageError(
            f"{len(fits)} exported models fit: {_listed(fits)}",
            hint="choose one with --model" + (" and --backend" if backend is None else ""),
        )
    raise _not_exported(backend, model, known)


def _not_exported(
    backend: str | None, model: str | None, known: list[tuple[str, str]]
) -> MlserveError:
    if backend is not None:
        try:
            plugins.backend(backend)
        except MlserveError as error:
            return error  # that is what is wrong, and no export would help
    what = f"no model {model!r}" if model else "no model"
    where = f" for the backend {backend!r}" if backend else ""
    there = f" (exported: {_listed(known)})" if known else ""
    return NotFound(
        f"{what} has been exported{where}{there}",
        hint=_exported_instead(model, known)
        + way_to_export(backend, model)
        + "; or serve a folder of your own: mlserve up --path DIR",
    )


def _exported_instead(model: str | None, known: list[tuple[str, str]]) -> str:
    """The model that was exported and probably meant, for a hint."""
    names = {name: backend for backend, name in known}
    meant = nearest(model, names) if model else None
    if meant is None:
        return ""
    return f"did you mean --backend {names[meant]} --model {meant}? else "


def _serving(backend: str, model: str, base: Path, versions: Versions) -> Serving:
    expected = _expected(base, versions)
    manifests = [Artifact.open(base, model, version).manifest for version in expected]
    for manifest in filter(None, manifests):
        manifest.pipeline.require_known_background()
    return Serving(
        check_name("backend", backend),
        check_name("model", model),
        base,
        versions,
        expected,
        has_random_weights=any(m is not None and m.has_random_weights for m in manifests),
        takes_images=all(m is not None for m in manifests),
    )


def _expected(base: Path, versions: Versions) -> tuple[int, ...]:
    """The versions that must answer, all there. Raises NotFound for one that is not."""
    there = _versions_there(base, versions)
    return versions.numbers or (tuple(there) if versions.are_all else (there[-1],))


def _versions_there(base: Path, versions: Versions) -> list[int]:
    there = version_numbers(base) if base.is_dir() else []
    if not there:
        raise _no_versions(base)
    missing = sorted(set(versions.numbers) - set(there))
    if missing:
        raise NotFound(
            f"{base.name} has no version {missing[0]} (there: {', '.join(map(str, there))})",
            hint=f"the versions are the numbered folders in {base}",
        )
    unfinished = without_manifest(base, there)
    return [version for version in there if version not in unfinished]


def _no_versions(base: Path) -> NotFound:
    if base.is_file():
        return NotFound(
            f"{base} is a file, not a folder of version folders",
            hint=f"export it: mlserve export --model NAME --weights {base} --labels FILE; or give "
            "the folder that holds DIR/1/",
        )
    if not base.is_dir():
        return NotFound(f"there is no folder {base}", hint="give the folder that holds DIR/1/")
    if base.name.isdigit():
        return NotFound(
            f"{base} has no version folders in it",
            hint=f"it looks like a version itself: --path {base.parent} --version {base.name}",
        )
    return NotFound(
        f"{base} has no version folder such as {base / '1'}",
        hint=f"put the model's files into {base / '1'}: a server takes the numbered folders",
    )


def _listed(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"{model} ({backend})" for backend, model in pairs)


class Launcher(StrEnum):
    """What runs the server: mlserve's own, another maker's, a container, or whichever is there."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    NATIVE = "native"
    DOCKER = "docker"


class ServerKind(StrEnum):
    """Which server is in an image: the runtime's own, mlserve's, or (auto) the first if known."""

    AUTO = "auto"
    NATIVE = "native"
    EMBEDDED = "embedded"
