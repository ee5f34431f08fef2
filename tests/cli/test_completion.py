"""What the shells are offered: through the scripts and variables that they really use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.launch.logs import log_path
from mlserve.store import Store
from tests.harness.cli import commands
from tests.harness.command import Command

Offered = Callable[[str], list[str]]


def _complete(shell: str, line: str, **variables: str) -> list[str]:
    env = {"_MLSERVE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, **variables}
    result = CliRunner().invoke(app, [], env=env, catch_exceptions=False, prog_name="mlserve")
    return result.stdout.split()


@pytest.fixture
def offered(home: Path) -> Offered:
    """What fish is offered at the end of a line, with three exported models."""
    store = Store()
    for backend, model, version in (
        ("sklearn", "iris", 1),
        ("torch", "iris", 12),
        ("torch", "x", 3),
    ):
        (store.base_path(backend, model) / str(version)).mkdir(parents=True)

    def complete(line: str) -> list[str]:
        return _complete("fish", f"mlserve {line}", _TYPER_COMPLETE_FISH_ACTION="get-args")

    return complete


def test_backends_are_those_installed(offered: Offered) -> None:
    assert offered("predict --backend t") == ["tfserving", "torch"]
    assert {"onnxruntime", "sklearn"} <= set(offered("export --backend "))
    assert "models" not in offered("export --backend ")


def test_models_are_those_in_the_store(offered: Offered, tmp_path: Path) -> None:
    assert offered("up --model ") == ["iris", "x"]
    assert offered("up --backend sklearn --model ") == ["iris"]
    assert offered(f"up --store {tmp_path}/other --model ") == []
    for command in ("predict", "export", "build", "compare", "down"):
        assert offered(f"{command} --model i") == ["iris"], command


def test_versions_are_those_of_the_model(offered: Offered) -> None:
    assert offered("up --model iris --version ") == ["1", "12", "all"]
    assert offered("build --model iris --backend torch --version ") == ["12"]
    assert offered("predict --model x --version ") == ["3"]


def test_versions_to_serve_are_those_of_the_model_and_all(offered: Offered) -> None:
    for command in ("up", "deploy kubernetes", "deploy compose", "deploy systemd"):
        assert offered(f"{command} --model x --version ") == ["3", "all"], command
    for command in ("tune", "certify", "replay", "gate", "gate calibrate", "bench", "why"):
        assert offered(f"{command} --model x --version ") == ["3"], command
    assert offered("up --model x --shadow ") == ["3"]
    assert offered("bench --backend sklearn --backend torch --model ") == ["iris", "x"]


def test_what_compare_takes_are_backends_models_and_their_versions(offered: Offered) -> None:
    assert offered("compare t") == ["torch", "torch/iris", "torch/x"]
    assert offered("compare sklearn@") == ["sklearn@1"]
    assert offered("compare sklearn/iris torch/x@") == ["torch/x@3"]
    assert offered("compare --model iris torch/iris@") == ["torch/iris@12"]


def test_every_option_that_names_what_is_exported_is_completed(offered: Offered) -> None:
    named = ("--backend", "--model", "--version", "--against", "--launcher")
    options = [(name, o) for name, c in commands().items() for p in c.params for o in p.opts[:1]]
    lacking = [
        f"{name} {option}"
        for name, option in options
        if option in named and not offered(f"{name} {option} ")
    ]

    assert lacking == ["export --version"], "the number of a version that is not there yet"


def test_servers_are_those_that_run(cli: Command, export: Callable[..., Path]) -> None:
    export()
    assert cli("up", "--grpc-port", 0, "--rest-port", 0).returncode == 0
    for line in ("predict --server ", "down ", "logs e"):
        assert _complete("zsh", f"mlserve {line}")[-1] == ':(("echo-m"))\''
    assert _complete(
        "fish", "mlserve predict --model ", _TYPER_COMPLETE_FISH_ACTION="get-args"
    ) == ["m"]


def test_logs_are_those_of_ended_servers_too(offered: Offered) -> None:
    log = log_path("echo-m")
    log.parent.mkdir(parents=True)
    log.touch()
    assert offered("logs ") == ["echo-m"]
    assert offered("down ") == []


def test_what_cannot_be_found_out_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: Offered
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLSERVE_HOME", str(tmp_path / "file"))
    assert offered("up --model ") == []
    assert offered("down ") == []


@pytest.mark.server
def test_bash_completes_by_the_script_that_mlserve_prints(home: Path) -> None:
    (Store().base_path("sklearn", "iris") / "1").mkdir(parents=True)
    script = """
    eval "$(mlserve --show-completion bash)"
    COMP_WORDS=(mlserve up --model ir) COMP_CWORD=3
    _mlserve_completion mlserve
    echo "${COMPREPLY[@]}"
    """
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["iris"], done.stderr
