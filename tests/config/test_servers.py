"""The servers of a configuration file: what is read, and where an error is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve.config.servers import (
    MODEL_KEYS,
    SERVER_KEYS,
    Config,
    ModelConfig,
    ServerConfig,
    read_config,
)
from mlserve.errors import NotFound, UsageError
from mlserve.load_options import LoadOptions
from mlserve.settings import EMBEDDED, LogFormat, ServerSettings
from mlserve.store import VersionPolicy

THREE_MODELS = """\
# What the line asks.
[servers.line]
host = "0.0.0.0"
grpc_port = 9500
rest_port = 0
launcher = "embedded"
wait = 30
max_queue = 32
token_file = "secrets/token"
log_format = "json"
threads = 2

[servers.line.models.defects]
backend = "onnxruntime"
version = [2, 1]
threads = 4

[servers.line.models.species]
backend = "sklearn"
model = "iris"
store = "models"
version = "all"

[servers.line.models.raw]
path = "raw"
version = 7
"""


def _write(folder: Path, text: str, name: str = "mlserve.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _read(folder: Path, text: str) -> Config:
    return read_config(_write(folder, text))


def _error(folder: Path, text: str, name: str = "mlserve.toml") -> UsageError:
    path = _write(folder, text, name)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    caught.value.message = caught.value.message.replace(f"{folder}/", "")
    return caught.value


def test_a_server_of_three_models(tmp_path: Path) -> None:
    assert _read(tmp_path, THREE_MODELS).server("line") == ServerConfig(
        name="line",
        models=(
            ModelConfig(
                "defects",
                "defects",
                "onnxruntime",
                versions=VersionPolicy((1, 2)),
                options=LoadOptions(threads=4),
            ),
            ModelConfig(
                "species",
                "iris",
                "sklearn",
                store=tmp_path / "models",
                versions=VersionPolicy(serves_all=True),
                options=LoadOptions(threads=2),
            ),
            ModelConfig(
                "raw",
                "raw",
                path=tmp_path / "raw",
                versions=VersionPolicy((7,)),
                options=LoadOptions(threads=2),
            ),
        ),
        host="0.0.0.0",
        grpc_port=9500,
        rest_port=0,
        launcher=EMBEDDED,
        wait=30.0,
        settings=ServerSettings(
            max_queue=32, token_file=tmp_path / "secrets/token", log_format=LogFormat.JSON
        ),
        source=tmp_path / "mlserve.toml",
    )


def test_an_empty_model_table_has_all_defaults(tmp_path: Path) -> None:
    config = _read(tmp_path, "[servers.a.models.m]\n")
    assert config.servers == (
        ServerConfig("a", (ModelConfig("m", "m"),), source=tmp_path / "mlserve.toml"),
    )


def test_pyproject_has_it_in_its_own_table(tmp_path: Path) -> None:
    text = '[project]\nname = "line"\n\n[tool.mlserve.servers.a.models.m]\nbackend = "sklearn"\n'
    config = read_config(_write(tmp_path, text, "pyproject.toml"))
    assert config.server("a").models[0].backend == "sklearn"
    error = _error(tmp_path, text + "thread = 2\n", "pyproject.toml")
    assert error.message == (
        "pyproject.toml:6:1: 'thread' is not a key of [tool.mlserve.servers.a.models.m]"
    )
    assert error.hint == "did you mean threads?"


def test_what_is_not_a_server_is_kept_for_the_commands(tmp_path: Path) -> None:
    assert _read(tmp_path, "timeout = 5\n[predict]\ntop_k = 3\n").defaults == {
        "timeout": 5,
        "predict": {"top_k": 3},
    }


def test_an_unknown_server_is_named(tmp_path: Path) -> None:
    config = _read(tmp_path, "[servers.line.models.m]\n")
    with pytest.raises(NotFound, match="no server 'lime'") as caught:
        config.server("lime")
    assert caught.value.hint == "did you mean line? its servers are line"


_SERVER = "[servers.a.models.m]\n[servers.a]\n"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[servers.a\n", "1:11: this is not TOML: Expected ']'", "correct that line"),
        ("a = 1\na = 2\n", "2:6: this is not TOML: Cannot overwrite a value", "correct that line"),
        ('x = "', "1:6: this is not TOML: Unterminated string", "correct that line"),
        (f"{_SERVER}max_que = 1\n", "3:1: 'max_que' is not a key of [servers.a]", "max_queue?"),
        (f"{_SERVER}max-queue = 1\n", "3:1: 'max-queue' is not a key", "max_queue?"),
        (f'{_SERVER}max_queue = "1"\n', '3:13: max_queue must be a whole number, not "1"', ""),
        (f"{_SERVER}max_queue = true\n", "3:13: max_queue must be a whole number, not true", ""),
        (f"{_SERVER}max_queue = 1.5\n", "3:13: max_queue must be a whole number, not 1.5", ""),
        (f"{_SERVER}max_queue = -1\n", "3:13: max_queue must be at least 0, not -1", "leave it"),
        (
            f'{_SERVER}token_file = "t"\nmax_share = "b=2"\n',
            "4:13: 'b=2' is not a valid value of max_share",
            "give NAME=SHARE",
        ),
        (f'{_SERVER}max_share = "b=0.3"\n', "3:13: max_share needs token_file", "give both"),
        (f"{_SERVER}max_share = 0.3\n", "3:13: max_share must be a text in quotes, not 0.3", ""),
        (f"{_SERVER}wait = nan\n", "3:8: 'nan' is not a valid value of wait", "give a number"),
        (f"{_SERVER}grpc_port = 65536\n", "3:13: grpc_port must be at most 65535", "or 0"),
        (f'{_SERVER}log_format = "xml"\n', '3:14: log_format must be "text" or "json"', ""),
        (f"{_SERVER}token_file = 3\n", "3:14: token_file must be a path in quotes, not 3", ""),
        (f'{_SERVER}tls_key = "k"\n', "3:11: tls_key needs tls_cert", "give both, or neither"),
        (f'{_SERVER}token = "s3"\n', "3:1: a token does not belong in this file", "token_file"),
        (f"{_SERVER}allow_pickle = 1\n", "3:16: allow_pickle must be true or false, not 1", ""),
        ("[servers.a]\n", "1:10: [servers.a] has no models", "[servers.a.models.NAME]"),
        ("servers = 1\n", "1:1: servers must be a table", "[servers]"),
        ("[servers]\na = 1\n", "2:1: a must be a table", "[servers.a]"),
        ('[servers."a/b".models.m]\n', "1:10: 'a/b' is not a valid server name", "letters"),
        ('[servers.a.models."ü.m"]\n', "1:19: 'ü.m' is not a valid model name", "letters"),
        ('[servers.a.models.m]\nversion = "1"\n', "2:11: '1' is not a version", "a number"),
        ("[servers.a.models.m]\nversion = [1, true]\n", "2:11: [1, True] is not a", "a number"),
        ("[servers.a.models.m]\nversion = -1\n", "2:11: '-1' is not a version", "a number"),
        ('[servers.a.models.m]\nbackend = "onnx"\n', "2:11: there is no backend 'onnx'", "mean"),
        ('[servers.a.models.m]\npath = "p"\nstore = "s"\n', "3:1: path names a model's", "one of"),
    ],
)
def test_an_error_says_where_it_is(tmp_path: Path, text: str, message: str, hint: str) -> None:
    error = _error(tmp_path, text)
    assert error.message.startswith(f"mlserve.toml:{message}"), error.message
    assert hint in (error.hint or ""), error.hint


def test_a_port_belongs_to_one_server(tmp_path: Path) -> None:
    text = "[servers.a]\nrest_port = 9000\nmodels.m = {}\n[servers.b]\nmodels.m = {}\n%s = 9000\n%s"
    error = _error(tmp_path, text % ("grpc_port", ""))
    assert error.message == "mlserve.toml:6:13: port 9000 is already the rest_port of servers.a"
    assert len(_read(tmp_path, text % ("grpc_port", 'host = "10.0.0.1"\n')).servers) == 2
    assert (
        "grpc_port of servers.a"
        in _error(tmp_path, "[servers.a]\nmodels.m = {}\ngrpc_port = 9\nrest_port = 9\n").message
    )


def test_free_ports_may_be_many(tmp_path: Path) -> None:
    table = "[servers.%s]\nmodels.m = {}\ngrpc_port = 0\nrest_port = 0\n"
    assert len(_read(tmp_path, table % "a" + table % "b").servers) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml cannot be read: No such file"):
        read_config(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="cannot be read: it is not a regular file"):
        read_config(Path("/dev/null"))
    (tmp_path / "latin.toml").write_bytes(b'a = 1\nb = "\xe9"\n')
    with pytest.raises(UsageError, match=r"latin\.toml:2: the file is not UTF-8"):
        read_config(tmp_path / "latin.toml")


def test_every_setting_and_load_option_is_a_key(tmp_path: Path) -> None:
    keys = {item.name for item in SERVER_KEYS}
    for kind in (ServerSettings, LoadOptions):
        assert set(kind().to_json()) <= keys
    assert set(LoadOptions().to_json()) <= {item.name for item in MODEL_KEYS}


def test_a_folder_of_an_unknown_user_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mlserve.toml:2:8: ~no-such-user/m: the home folder of"):
        _read(tmp_path, '[servers.a.models.m]\npath = "~no-such-user/m"\n')


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert _read(tmp_path, "\ufeff[servers.a.models.m]\n").server("a").models
