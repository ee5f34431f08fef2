"""`mlserve config`: what is set and where, whether the file is right, a file to begin with."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from mlserve.errors import ExitCode
from tests.cli.test_defaults import refused, run

FILE = """\
store = "models"
[client]
endpoint = "localhost:8500"
timeout = 5
[servers.line]
rest_port = 9000
token_file = "token"
[servers.line.models.defects]
backend = "onnxruntime"
version = [1, 2]
[servers.line.models.species]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the commands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_show_says_where_each_value_comes_from(folder: Path) -> None:
    (folder / "mlserve.toml").write_text(FILE)
    code, out, err = run("config", "show", MLSERVE_TIMEOUT="9")
    assert (code, err) == (0, "file: mlserve.toml\n")
    assert [[part.strip() for part in line.split("  # ")] for line in out.splitlines()] == [
        [f'store = "{folder}/models"', "mlserve.toml:1:9"],
        ["client.timeout = 9.0", "MLSERVE_TIMEOUT"],
        ['client.endpoint = "localhost:8500"', "mlserve.toml:3:12"],
        ["servers.line.rest_port = 9000", "mlserve.toml:6:13"],
        ['servers.line.token_file = "token"', "mlserve.toml:7:14"],
        ['servers.line.models.defects.backend = "onnxruntime"', "mlserve.toml:9:11"],
        ["servers.line.models.defects.version = [1, 2]", "mlserve.toml:10:11"],
    ]
    assert tomllib.loads(out)["client"]["timeout"] == 9.0


def test_show_as_json_names_the_commands(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.mlserve.client]\nmodel = 'm'\n")
    _, out, _ = run("config", "show", "--output", "json", MLSERVE_UP_THREADS="2")
    assert json.loads(out) == {
        "file": "pyproject.toml",
        "values": [
            {
                "key": "up.threads",
                "value": 2,
                "source": "environment",
                "from": "MLSERVE_UP_THREADS",
                "commands": ["up"],
            },
            {
                "key": "client.model",
                "value": "m",
                "source": "file",
                "from": "pyproject.toml:2:9",
                "commands": [
                    "predict",
                    "gate",
                    "gate calibrate",
                    "metadata",
                    "status",
                    "why",
                    "audit",
                ],
            },
        ],
    }


def test_show_all_has_every_key_and_is_a_file(folder: Path) -> None:
    code, out, err = run("config", "show", "--all")
    assert (code, err) == (0, "no configuration file was found\n")
    lines = [line.removeprefix("# ") for line in out.splitlines()]
    assert "client.timeout = 5.0" in {line.partition("  # ")[0].rstrip() for line in lines}
    with_values = [line for line in lines if not line.partition("#")[0].strip().endswith("=")]
    (folder / "mlserve.toml").write_text("\n".join(with_values))
    code, out, err = run("config", "check")
    assert (code, out) == (0, "mlserve.toml is valid\n"), err


def test_nothing_set_is_said() -> None:
    code, out, err = run("config", "show")
    assert (code, out) == (0, "")
    assert err.splitlines()[1].startswith("every value is the built-in default")


def test_check_looks_at_the_servers_and_their_files(folder: Path) -> None:
    assert refused("config", "check")[0] == "there is no configuration file to check"
    path = folder / "mlserve.toml"
    path.write_text(FILE)
    assert refused("config", "check")[0] == (
        f"mlserve.toml:7:14: {folder}/token (token_file) cannot be read: No such file or directory"
    )
    (folder / "token").write_text("s3cret\n")
    assert run("config", "check") == (
        0,
        "mlserve.toml is valid\n",
        "line: defects, species\n",
    )
    assert json.loads(run("config", "check", "--output", "json")[1]) == {
        "file": "mlserve.toml",
        "servers": {"line": ["defects", "species"]},
    }
    path.write_text(FILE + 'backend = "sklaern"\n')
    error, hint = refused("config", "check")
    assert error.startswith("mlserve.toml:12:11: there is no backend 'sklaern' (installed: ")
    assert hint.startswith("did you mean sklearn?")
    path.write_text(FILE.replace("timeout = 5", 'timeout = "5"'))
    assert refused("config", "check")[0].startswith("mlserve.toml:4:11: timeout must be a number")
    path.write_text("[up]\ngrpc_port = 70000\n")
    assert refused("config", "check")[0].startswith("mlserve.toml:2:13: ")


def test_init_writes_a_file_that_is_right_with_and_without_its_comments(folder: Path) -> None:
    code, out, _ = run("config", "init")
    assert (code, out) == (0, "mlserve.toml\n")
    assert run("config", "check")[0] == 0
    assert refused("config", "init")[0] == "mlserve.toml is there already"
    path = folder / "mlserve.toml"
    text = path.read_text()
    chosen = [
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line
        for line in text.splitlines()
    ]
    path.write_text("\n".join(chosen))
    assert run("config", "check") == (0, "mlserve.toml is valid\n", "line: defects\n")


def test_init_needs_a_folder_that_it_may_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    code, _, err = run("config", "init")
    assert (code, err.splitlines()[0]) == (
        ExitCode.USAGE,
        "error: mlserve.toml cannot be written: No such file or directory",
    )
