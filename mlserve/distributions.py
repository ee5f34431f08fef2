"""Our own distributions, and the commands that install them.

The names stand here and nowhere else: the name `mlserve` on the package index belongs to another
project, so no hint may send anybody there for it. A hint names a folder of the checkout, or a
wheel's file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mlserve import __version__

CORE = "mlserve"
MODELS = "mlserve-models"
FOLDERS = {
    CORE: ".",
    MODELS: "plugins/models",
    "mlserve-tfserving": "plugins/tfserving",
    "mlserve-onnxruntime": "plugins/onnxruntime",
}
"""Our distributions, each with its folder in a checkout."""
_BESIDE = {
    "mlserve-tfserving[export]": f"{MODELS}[all]",
    "mlserve-onnxruntime[export]": f"{MODELS}[all]",
}
"""What else of ours an extra needs: named in the same command, pip does not look for it."""


def install_command(wanted: str) -> str:
    """The command that installs one of our distributions: `mlserve-tfserving[export]`.

    From a checkout: `pip install -e '<checkout>/plugins/tfserving[export]'`. Else the wheels, which
    lie where that of mlserve came from.
    """
    beside = [_BESIDE[wanted]] if wanted in _BESIDE else []
    return " ".join(["pip install", *map(_argument, [*beside, wanted])])


def is_ours(name: str) -> bool:
    """Whether that is the name of one of our distributions, however it is written."""
    return name.lower().replace("_", "-") in FOLDERS


def _argument(wanted: str) -> str:
    name, bracket, extra = wanted.partition("[")
    checkout = _checkout()
    if checkout is not None:
        return f"-e {_quoted(f'{checkout / FOLDERS[name]}{bracket}{extra}')}"
    wheel = f"{name.replace('-', '_')}-{__version__}-py3-none-any.whl"
    return _quoted(f"{_wheels() / wheel}{bracket}{extra}")


def _quoted(text: str) -> str:
    import shlex  # a hint is made when something is missing, not on each start

    return shlex.quote(text)


@cache
def _checkout() -> Path | None:
    """The checkout that this code is in; None when it was installed from a wheel."""
    root = Path(__file__).resolve().parents[1]
    is_there = all((root / folder / "pyproject.toml").is_file() for folder in FOLDERS.values())
    return root if is_there else None


@cache
def _wheels() -> Path:
    """The folder that the wheel of mlserve was installed from, as pip has noted it."""
    import json  # as above
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    try:
        noted = json.loads(distribution(CORE).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        noted = {}
    parts = urlsplit(str(noted.get("url", "")))
    is_wheel = parts.scheme == "file" and parts.path.endswith(".whl")
    return Path(unquote(parts.path)).parent if is_wheel else Path()
