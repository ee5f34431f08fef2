"""Defaults of options: a flag goes before the environment, and that before the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.cli.defaults import all_settings
from mlserve.errors import ExitCode
from mlserve.load_options import LoadOptions
from mlserve.settings import ServerSettings
from tests.harness.command import Command
from tests.harness.server import EchoServer

GROUP: Any = typer.main.get_command(app)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the commands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, **env: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, words, env=env, catch_exceptions=False, prog_name="mlserve")
    return result.exit_code, result.stdout, result.stderr


def refused(*words: str, **env: str) -> tuple[str, str]:
    """The error and the hint that these words of a command line end with."""
    code, out, err = run(*words, **env)
    assert (code, out) == (ExitCode.USAGE, ""), err
    error, hint = err.splitlines()
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


def shown(**env: str) -> dict[str, tuple[Any, str]]:
    """What `config show` says of each key: its value, and where that comes from."""
    code, out, err = run("config", "show", "--output", "json", **env)
    assert code == 0, err
    return {v["key"]: (v["value"], v["from"]) for v in json.loads(out)["values"]}


def test_a_command_takes_its_defaults_from_the_file(
    echo: EchoServer, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlserve.toml").write_text(
        f'[client]\nendpoint = "{echo.endpoint("rest")}"\n[predict]\noutput = "json"\n'
    )
    code, out, err = run("predict", str(photo))
    assert code == 0, err
    assert json.loads(out)["protocol"] == "rest"
    code, out, err = run("predict", str(photo), "--output", "text")
    assert (code, out.count("{")) == (0, 0), err
    code, out, _ = run("predict", str(photo), "--config", "none")
    assert (code, out) == (ExitCode.UNAVAILABLE, "")


def test_a_refusal_is_explained_by_the_server_that_refused(
    echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`why` and `audit` ask the server that `predict` asks, in a time of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlserve.toml").write_text(
        f'[client]\nendpoint = "{echo.endpoint("rest")}"\ntimeout = 0.001\n'
    )
    code, out, err = run("audit", "--output", "json")
    assert code == 0, err
    assert "regret" in out
    code, _, err = run("why", "never-asked")
    assert code == ExitCode.USAGE
    assert "never-asked" in err


def test_of_flag_environment_and_file_the_first_counts(folder: Path) -> None:
    (folder / "mlserve.toml").write_text("[client]\ntimeout = 1\n[predict]\ntimeout = 2\n")
    assert shown() == {
        "client.timeout": (1.0, "mlserve.toml:2:11"),
        "predict.timeout": (2.0, "mlserve.toml:4:11"),
    }
    assert shown(MLSERVE_PREDICT_TIMEOUT="3") == {
        "client.timeout": (1.0, "mlserve.toml:2:11"),
        "predict.timeout": (3.0, "MLSERVE_PREDICT_TIMEOUT"),
    }
    assert shown(MLSERVE_TIMEOUT="4") == {"client.timeout": (4.0, "MLSERVE_TIMEOUT")}
    error, _ = refused("status", "--timeout", "x", MLSERVE_TIMEOUT="4")
    assert error == "'x' is not a valid value of --timeout"


def test_an_empty_variable_counts_as_absent(folder: Path) -> None:
    assert shown(MLSERVE_TIMEOUT="") == {}


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        (
            "[predit]\ntop_k = 1\n",
            "1:2: 'predit' is not a key of the file",
            "did you mean predict?",
        ),
        ("[predict]\ntopk = 1\n", "2:1: 'topk' is not a key of [predict]", "did you mean top_k?"),
        ("[client]\ntop_k = 1\n", "2:1: 'top_k' is not a key of [client]", "the keys here are api"),
        ("timeout = 1\n", "1:1: 'timeout' is not a key of the file", "the keys here are"),
        ("[up]\nforeground = true\n", "2:1: 'foreground' is not a key of [up]", "config show"),
        ("[up]\nthreads = '2'\n", '2:11: threads must be a whole number, not "2"', "config show"),
        ("[up]\nversion = [1, true]\n", "2:11: version must be a text in quotes, not true", ""),
        ("[client]\ntimeout = '5'\n", '2:11: timeout must be a number, not "5"', ""),
        ("[client]\napi = 'tf'\n", '2:7: api must be "tfs" or "oip" or "torchserve"', ""),
        ("output = 'xml'\n", '1:10: output must be "text" or "json"', ""),
        ("client = 1\n", "1:1: client must be a table", "[client]"),
        ("[compare]\nstore = 1\n", "2:9: store must be a path in quotes, not 1", ""),
        ("[status\n", "1:8: this is not TOML", "correct that line"),
    ],
)
def test_an_error_in_any_table_names_its_place(
    folder: Path, text: str, error: str, hint: str
) -> None:
    (folder / "mlserve.toml").write_text(text)
    found, then = refused("models", "--output", "text")
    assert found.startswith(f"mlserve.toml:{error}")
    assert hint in then


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        ("[up]\nmax_queue = -1\n", ["up"], "2:13: --max-queue must be at least 0, not -1"),
        ("[up]\ngrpc_port = 70000\n", ["up"], "2:13: '70000' is not a valid value of --grpc-port"),
        ("[client]\ntimeout = -2\n", ["status"], "2:11: timeout must be a positive"),
        ("[compare]\nruns = 0\n", ["compare", "a", "b"], "2:8: '0' is not a valid value of --runs"),
        ('[up]\nimage = "x"\n', ["up"], "2:9: --image and --docker-option are for containers"),
    ],
)
def test_a_value_that_a_command_refuses_names_its_place(
    folder: Path, text: str, words: list[str], error: str
) -> None:
    (folder / "mlserve.toml").write_text(text)
    assert refused(*words)[0].startswith(f"mlserve.toml:{error}")


def test_a_variable_that_a_command_refuses_is_named(folder: Path) -> None:
    assert refused("status", MLSERVE_TIMEOUT="soon") == (
        "MLSERVE_TIMEOUT: 'soon' is not a valid value of --timeout",
        "give a number",
    )
    assert refused("up", MLSERVE_UP_MAX_QUEUE="-1")[0].startswith("MLSERVE_UP_MAX_QUEUE: --max-")


def test_a_flag_overrides_what_it_excludes(folder: Path, tmp_path: Path) -> None:
    (folder / "mlserve.toml").write_text('store = "models"\n[client]\nendpoint = "localhost:1"\n')
    code, _, err = run("status", "--server", "nope", "--timeout", "2")
    assert code == ExitCode.UNAVAILABLE
    assert err.startswith("error: no server is running"), err
    error, _ = refused("up", "--path", str(tmp_path / "absent"))
    assert "--store" not in error


def test_two_of_the_file_that_exclude_each_other_are_refused(folder: Path) -> None:
    (folder / "mlserve.toml").write_text('[client]\nserver = "a"\nendpoint = "localhost:1"\n')
    error, hint = refused("status")
    assert error.startswith("mlserve.toml:3:12: --server chooses among running servers")
    assert hint == "give only one of the two"


def test_paths_start_at_the_folder_of_the_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/net.onnx").touch()
    (folder / "sub/mlserve.toml").write_text(
        '[client]\ntoken_file = "t"\n[export]\nweights = "net.onnx"\nlabels = "~/w"\n'
    )
    values = shown(MLSERVE_CONFIG="sub/mlserve.toml")
    assert values["client.token_file"][0] == str(folder / "sub/t")
    assert values["export.weights"][0] == str(folder / "sub/net.onnx")
    assert values["export.labels"][0] == str(Path("~/w").expanduser())
    (folder / "mlserve.toml").write_text('[export]\nweights = "random"\n')
    assert shown()["export.weights"][0] == "random"


def test_json_as_the_default_output_holds_for_errors_too(folder: Path) -> None:
    (folder / "mlserve.toml").write_text('output = "json"\n[client]\ntimeout = 1\n')
    code, out, err = run("status")
    assert (code, out) == (ExitCode.UNAVAILABLE, "")
    assert json.loads(err)["error"]["kind"] == "unavailable"
    _, _, err = run("status", "--output", "text")
    assert err.startswith("error: ")


def test_a_list_of_the_environment_is_separated_by_spaces(folder: Path) -> None:
    values = shown(MLSERVE_UP_VERSION="1 2", MLSERVE_UP_LAUNCHER="docker")
    assert values["up.version"] == (["1", "2"], "MLSERVE_UP_VERSION")


def test_every_setting_of_a_server_is_a_key_and_a_variable() -> None:
    keys = {(s.command, s.key) for s in all_settings(GROUP)}
    for kind in (ServerSettings, LoadOptions):
        assert {("up", name) for name in kind().to_json()} <= keys


def test_no_variable_means_two_things() -> None:
    taken = {"MLSERVE_HOME", "MLSERVE_CONFIG", "MLSERVE_TOKEN", "MLSERVE_TFHUB_URL"}
    keys: dict[str, tuple[str, str]] = {}
    for setting in all_settings(GROUP):
        for table, variable in zip(setting.tables, setting.variables, strict=True):
            assert variable not in taken
            assert keys.setdefault(variable, (table, setting.key)) == (table, setting.key)


def test_a_token_for_the_client_is_not_one_for_the_server(folder: Path) -> None:
    values = shown(MLSERVE_TOKEN_FILE="t", MLSERVE_TLS_CERT="c")
    assert set(values) == {"client.token_file", "client.tls_cert"}


def test_config_is_an_option_of_every_command(folder: Path) -> None:
    shutil.copy(__file__, folder / "other.toml")
    for words in (["ps"], ["plugins"], ["plugins", "new", "x"], ["config", "show"]):
        error, _ = refused(*words, "--config", "other.toml")
        assert error.startswith("other.toml:1:")
    assert "mlserve ps --config" in refused("--config", "other.toml", "ps")[1]


@pytest.mark.server
def test_a_process_reads_the_file_of_its_folder(cli: Command) -> None:
    (cli.folder / "mlserve.toml").write_text("[client]\ntimeot = 5\n")
    outcome = cli("predict", "x.jpg")
    assert outcome.returncode == ExitCode.USAGE
    assert outcome.stderr == (
        "error: mlserve.toml:2:1: 'timeot' is not a key of [client]\nhint: did you mean timeout?\n"
    )
