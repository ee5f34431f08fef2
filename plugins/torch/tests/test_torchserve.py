"""TorchServe as data: the command line, the configuration and the model folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlserve_torch.backend import TorchBackend
from mlserve_torch.torchserve import server_specs

from mlserve.backend import Listen, ServerSpec
from mlserve.launch.launchers import launcher_for
from mlserve.launcher import ServerCommand
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import AUTO, EMBEDDED, NATIVE

pytestmark = pytest.mark.framework

LISTEN = Listen("127.0.0.1", 8500, 8501)


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    for version in ("1", "9", "10", "notes"):
        (tmp_path / "m" / version).mkdir(parents=True)
    return tmp_path / "m"


def spec_of(base_path: Path, *versions: int, listen: Listen = LISTEN) -> ServerSpec:
    [spec] = server_specs("torch", base_path, "m", versions, listen)
    return spec


def properties(spec: ServerSpec) -> dict[str, str]:
    return dict(line.split("=", 1) for line in spec.files["config.properties"].splitlines())


def models(spec: ServerSpec) -> list[str]:
    """The versions of the model m, in the order in which TorchServe loads them."""
    given = spec.argv[spec.argv.index("--models") + 1 :]
    return [path.removeprefix("m={files}/store/") for path in given]


def test_the_command_is_torchserves(base_path: Path) -> None:
    spec = spec_of(base_path)
    assert (spec.launcher, spec.executable) == ("native", "torchserve")
    assert spec.argv[: spec.argv.index("--models")] == (
        "--start",
        "--foreground",
        "--no-config-snapshots",
        "--disable-token-auth",
        "--ts-config",
        "{files}/config.properties",
        "--log-config",
        "{files}/log4j2.xml",
        "--model-store",
        "{files}/store",
    )
    assert "openjdk-17" in spec.install_hint


def test_only_the_inference_api_is_reached(base_path: Path) -> None:
    found = properties(spec_of(base_path, listen=Listen("0.0.0.0", 9000, 9001)))
    assert found["inference_address"] == "http://0.0.0.0:9001"
    assert (found["grpc_inference_address"], found["grpc_inference_port"]) == ("0.0.0.0", "9000")
    assert found["management_address"] == "http://127.0.0.1:0"
    assert (found["grpc_management_address"], found["grpc_management_port"]) == ("127.0.0.1", "0")
    assert (found["enable_metrics_api"], found["allowed_urls"]) == ("false", "none")
    assert "--enable-model-api" not in spec_of(base_path).argv


def test_an_ipv6_host_is_in_brackets_in_an_address_alone(base_path: Path) -> None:
    found = properties(spec_of(base_path, listen=Listen("::1", 9000, 9001)))
    assert found["inference_address"] == "http://[::1]:9001"
    assert found["grpc_inference_address"] == "::1"


def test_the_latest_version_is_a_number_not_a_text(base_path: Path) -> None:
    spec = spec_of(base_path)
    assert models(spec) == ["10"]
    assert not spec.follows_versions
    assert spec.only_on_request


def test_the_highest_of_several_versions_is_the_default_one(base_path: Path) -> None:
    spec = spec_of(base_path, 1, 10, 9)
    assert models(spec) == ["10", "9", "1"]
    settings = json.loads(spec.files["store/9/model.json"])
    assert settings == {
        "backend": "torch",
        "model": "m",
        "base_path": str(base_path),
        "version": 9,
        "versions": [10, 9, 1],
    }


def test_a_model_folder_says_what_it_is(base_path: Path) -> None:
    files = spec_of(base_path, 9).files
    assert set(files) == {
        "config.properties",
        "log4j2.xml",
        "store/9/MAR-INF/MANIFEST.json",
        "store/9/torchserve_handler.py",
        "store/9/model.json",
    }
    manifest = json.loads(files["store/9/MAR-INF/MANIFEST.json"])
    assert manifest["model"] == {
        "modelName": "m",
        "handler": "torchserve_handler.py",
        "modelVersion": "9",
    }


def test_the_handlers_file_has_the_one_class_that_torchserve_wants(base_path: Path) -> None:
    names: dict[str, object] = {"__name__": "torchserve_handler"}
    exec(spec_of(base_path).files["store/10/torchserve_handler.py"], names)
    own = [
        name
        for name, value in names.items()
        if isinstance(value, type) and value.__module__ == "torchserve_handler"
    ]
    assert own == ["ModelHandler"]
    assert "handle" not in names  # a function of that name would be taken in its place


def test_all_its_files_are_in_its_own_folder(base_path: Path) -> None:
    """TorchServe's sockets and its pid file have fixed names: two servers must not share them."""
    spec = spec_of(base_path)
    command = ServerCommand(spec.argv, spec.env, spec.files)
    placed = command.placed(Path("/state/files/torch-m"))
    assert placed.env == {
        "TS_CONFIG_FILE": "/state/files/torch-m/config.properties",
        "TMPDIR": "/state/files/torch-m",
        "TEMP": "/state/files/torch-m",
        "LOG_LOCATION": "/state/files/torch-m",
        "METRICS_LOCATION": "/state/files/torch-m",
    }
    assert "/state/files/torch-m/store" in placed.argv
    assert not any("{files}" in text for text in (*placed.argv, *placed.env.values()))


def test_auto_never_chooses_it(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "torchserve").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    serving = Serving((ServedModel("torch", "m", base_path),))
    assert launcher_for([TorchBackend()], serving, AUTO) == EMBEDDED
    assert launcher_for([TorchBackend()], serving, NATIVE) == NATIVE
