"""Pack what `many_cores.py` needs into a folder, for a machine that reaches no package registry.

    python benchmarks/many_cores_pack.py FOLDER [--python 3.12] [--have numpy,onnxruntime,pillow]

writes wheels and the exported model there. On the other machine, in the checkout:

    python3 -m pip install --no-index --no-deps --target /tmp/site FOLDER/wheels/*.whl
    PYTHONPATH=/tmp/site python3 benchmarks/many_cores.py --model FOLDER/MODEL/1
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("server", "images", "bench")
BESIDES = ("onnxruntime", "uvloop")
GLIBCS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def main() -> None:
    """Download the wheels, build mlserve's own, export the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the version of Python there")
    parser.add_argument("--have", default="", metavar="NAME,...", help="what is installed there")
    parser.add_argument("--model", default="efficientnet_lite0")
    options = parser.parse_args()
    wheels = options.folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    _download(wheels, options.python)
    for name in filter(None, options.have.split(",")):
        for wheel in wheels.glob(f"{name.replace('-', '_')}-*.whl"):
            wheel.unlink()
    own = (ROOT, ROOT / "plugins" / "onnxruntime")
    _run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheels, *own)
    _export(options.folder, options.model)
    size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
    print(f"{options.folder}: {size / 2**20:.0f} MiB")


def _download(wheels: Path, python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *BESIDES]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    platforms = [part for glibc in GLIBCS for part in ("--platform", f"{glibc}_x86_64")]
    how = ("--quiet", "--only-binary", ":all:", "--implementation", "cp", "--python-version")
    constraints = ("--constraint", ROOT / "constraints.txt")
    _run("-m", "pip", "download", *how, python, *platforms, *constraints, "-d", wheels, *wanted)


def _export(folder: Path, model: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        argv = ("-m", "mlserve", "export", "--backend", "onnxruntime", "--model", model)
        _run(*argv, MLSERVE_HOME=home)
        (exported,) = (
            file.parent
            for file in Path(home).rglob("model.onnx")
            if re.fullmatch(r"\d+", file.parent.name)
        )
        shutil.copytree(exported, folder / model / "1", dirs_exist_ok=True)


def _run(*argv: object, **env: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    subprocess.run([sys.executable, *map(str, argv)], check=True, env=clean | env)


if __name__ == "__main__":
    main()
