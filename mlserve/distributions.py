"""mlserve's own distributions: requirements, missing packages, and install commands."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve import __version__
from mlserve.errors import PluginError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CORE = "mlserve"
MODELS = "mlserve-models"
FOLDERS = {
    CORE: ".",
    MODELS: "plugins/models",
    "mlserve-tfserving": "plugins/tfserving",
    "mlserve-onnxruntime": "plugins/onnxruntime",
    "mlserve-openvino": "plugins/openvino",
    "mlserve-ray": "plugins/ray",
    "mlserve-sklearn": "plugins/sklearn",
    "mlserve-model-server": "plugins/model-server",
    "mlserve-torch": "plugins/torch",
}
"""Our distributions, each with its folder in a checkout."""
_BESIDE = {
    "mlserve-tfserving[export]": f"{MODELS}[all]",
    "mlserve-onnxruntime[export]": f"{MODELS}[all]",
    "mlserve-onnxruntime[sklearn]": "mlserve-sklearn[serve]",
    "mlserve-onnxruntime[torch]": "mlserve-torch[export]",
    "mlserve-openvino[export]": f"{MODELS}[all]",
    "mlserve-openvino[onnx]": "mlserve-onnxruntime[serve]",
    "mlserve-openvino[torch]": "mlserve-torch[export]",
}
"""Our other distributions that an extra needs: pip cannot find them, so the command lists them."""


def install_command(wanted: str) -> str:
    """Return the command that installs one of our distributions: `mlserve-tfserving[export]`.

    From a checkout: `pip install -e '<checkout>/plugins/tfserving[export]'`. Otherwise from the
    wheels beside the one that mlserve was installed from.
    """
    beside = [_BESIDE[wanted]] if wanted in _BESIDE else []
    return " ".join(["pip install", *map(_argument, [*beside, wanted])])


def not_installed(what: str, *modules: str, hint: str) -> PluginError:
    """Return the error for something that needs modules which are not installed."""
    verb = "is" if len(modules) == 1 else "are"
    return PluginError(f"{what} needs {', '.join(modules)}, which {verb} not installed", hint=hint)


def is_ours(name: str) -> bool:
    """Return whether this names one of our distributions, in any spelling."""
    return name.lower().replace("_", "-") in FOLDERS


def _argument(wanted: str) -> str:
    name, bracket, extra = wanted.partition("[")
    checkout = _checkout()
    if checkout is not None:
        return f"-e {_quoted(f'{checkout / FOLDERS[name]}{bracket}{extra}')}"
    wheel = f"{name.replace('-', '_')}-{__version__}-py3-none-any.whl"
    return _quoted(f"{_wheels() / wheel}{bracket}{extra}")


def _quoted(text: str) -> str:
    import shlex  # needed only for hints, not on each start

    return shlex.quote(text)


@cache
def _checkout() -> Path | None:
    """Return the checkout that contains this code; None if it was installed from a wheel."""
    root = Path(__file__).resolve().parents[1]
    is_there = all((root / folder / "pyproject.toml").is_file() for folder in FOLDERS.values())
    return root if is_there else None


@cache
def _wheels() -> Path:
    """Return the folder that the wheel of mlserve was installed from, as recorded by pip."""
    import json  # as above
    from urllib.parse import unquote, urlsplit

    try:
        noted = json.loads(distribution(CORE).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        noted = {}
    parts = urlsplit(str(noted.get("url", "")))
    is_wheel = parts.scheme == "file" and parts.path.endswith(".whl")
    return Path(unquote(parts.path)).parent if is_wheel else Path()


SERVER = (CORE, "server")
"""The distribution and the extra that mlserve's own server needs."""
SERVER_HINT = install_command(f"{CORE}[server]")
SERVE_EXTRA = "serve"
"""The extra of a plugin's distribution that lists what its backend needs to run a model."""


def absent_packages(owner: str, extra: str) -> list[str]:
    """Return the names of packages that `owner[extra]` needs and that are not installed.

    A package also counts as installed when another distribution provides its module:
    `onnxruntime-gpu` is as good as `onnxruntime`. Raises PackageNotFoundError for the owner.
    """
    names = {requirement.name for requirement in _needed(owner, frozenset((extra,)), set())}
    return sorted(name for name in names if not _is_there(name))


def requirements_of(found: Distribution, extras: Collection[str] = ()) -> Iterator[Requirement]:
    """Yield what a distribution needs on this platform with these extras, by its metadata."""
    from packaging.requirements import Requirement  # as above

    for text in found.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _needed(owner: str, extras: frozenset[str], seen: set[str]) -> Iterator[Requirement]:
    """Yield its requirements, and those of the extras that it asks of other distributions."""
    from packaging.utils import canonicalize_name  # as above

    seen.add(canonicalize_name(owner))
    for requirement in requirements_of(distribution(owner), extras):
        yield requirement
        if requirement.extras and canonicalize_name(requirement.name) not in seen:
            try:
                yield from _needed(requirement.name, frozenset(requirement.extras), seen)
            except PackageNotFoundError:
                continue  # already yielded as absent itself


def _is_there(name: str) -> bool:
    from packaging.utils import canonicalize_name  # as above

    try:
        distribution(name)
    except PackageNotFoundError:
        return importlib.util.find_spec(canonicalize_name(name).replace("-", "_")) is not None
    return True
