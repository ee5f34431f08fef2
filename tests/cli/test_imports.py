"""What a command loads, seen from inside of its process: the client stays light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may stand still for longer than the default of 5 s."""
    monkeypatch.setenv("MLSERVE_TIMEOUT", "60")


HEAVY = {
    *(
        "numpy",
        "tensorflow",
        "tensorflow_serving",
        "keras",
        "onnx",
        "onnxruntime",
        "tensorflow_hub",
    ),
    *("uvicorn", "starlette", "mlserve_tfserving", "mlserve_models"),
}
_RUN = """
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted(sys.modules), file=sys.stderr))
from mlserve.__main__ import main
main()
"""


def _loaded(*arguments: str) -> set[str]:
    """The top-level modules that the command had loaded when it ended."""
    return {name.partition(".")[0] for name in _modules(*arguments)}


def _modules(*arguments: str) -> set[str]:
    """The modules that the command had loaded when it ended."""
    result = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=False
    )
    line = next(line for line in result.stderr.splitlines() if line.startswith("loaded:"))
    assert result.returncode == 0, result.stderr
    return set(line.split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = _loaded(*arguments)

    assert not loaded & {*HEAVY, "grpc", "httpx", "google"}


def test_a_command_reads_toml_only_if_there_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not _loaded("ps") & {"tomllib", "tree_sitter"}
    (tmp_path / "mlserve.toml").write_text("[client]\ntimeout = 3\n")
    assert _loaded("ps") & {"tomllib", "tree_sitter"} == {"tomllib"}


def test_a_command_loads_no_other_command_and_no_client_unless_it_asks() -> None:
    loaded = _modules("ps")
    commands = {f"mlserve.cli.{name}" for name in ("export", "predict", "up", "models", "config")}
    assert "mlserve.cli.ps" in loaded
    assert not loaded & {*commands, "mlserve.client", "asyncio"}


def test_the_list_of_models_loads_nothing_heavy(export: Callable[..., Path]) -> None:
    export()
    assert not _loaded("models") & {*HEAVY, "grpc", "httpx", "google", "mlserve_echo"}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_question_loads_its_own_protocol_only(echo: Any, photo: Path, protocol: str) -> None:
    for api in ([], ["--api", "oip"]):
        loaded = _loaded("predict", str(photo), "--endpoint", echo.endpoint(protocol), *api)

        assert ("grpc" in loaded) == (protocol == "grpc")
        assert not loaded & {*HEAVY, "httpx"}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_other_api_costs_nothing_until_it_is_spoken(
    echo: Any, photo: Path, protocol: str
) -> None:
    server = ("--endpoint", echo.endpoint(protocol), "--model", "inception_v3")
    modules = _modules("predict", str(photo), *server)

    assert not {name for name in modules if "oip" in name or "inference" in name}


def test_the_package_loads_nothing_until_it_is_used() -> None:
    code = "import sys, mlserve.client; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert not loaded & {*HEAVY, "grpc", "httpx", "google", "typer"}
