"""`tensorflow_model_server` as data: the command line and the configuration file."""

from __future__ import annotations

from pathlib import Path

from mlserve_tfserving.backend import TFServingBackend

from mlserve.backend import Listen

LISTEN = Listen("127.0.0.1", 8500, 8501)
FLAGS_OF_MAIN_CC = {
    "port",
    "rest_api_port",
    "rest_api_timeout_in_ms",
    "model_name",
    "model_base_path",
    "model_config_file",
    "max_num_load_retries",
    "file_system_poll_wait_seconds",
    "enable_profiler",
    "enable_grpc_healthcheck_service",
}


def flags(argv: tuple[str, ...]) -> dict[str, str]:
    return dict(flag.removeprefix("--").split("=", 1) for flag in argv)


def test_the_latest_version_needs_flags_only() -> None:
    spec, _ = TFServingBackend().external_servers(Path("/store/m"), "m", (), LISTEN)
    assert (spec.launcher, spec.executable) == ("native", "tensorflow_model_server")
    assert flags(spec.argv) == {
        "port": "8500",
        "rest_api_port": "8501",
        "model_name": "m",
        "model_base_path": "/store/m",
        "file_system_poll_wait_seconds": "1",
        "rest_api_timeout_in_ms": "30000",
        "max_num_load_retries": "0",
        "enable_grpc_healthcheck_service": "true",
        "enable_profiler": "false",
    }
    assert spec.files == {}
    assert set(flags(spec.argv)) <= FLAGS_OF_MAIN_CC


def test_given_versions_need_a_configuration_file() -> None:
    base_path = Path('/a "quoted" \\ folder')
    spec, _ = TFServingBackend().external_servers(base_path, "m", (2, 5), LISTEN)
    options = flags(spec.argv)
    assert options["model_config_file"] == "{files}/models.config"
    assert not {"model_name", "model_base_path"} & set(options)
    assert set(options) <= FLAGS_OF_MAIN_CC
    assert spec.files == {
        "models.config": """\
model_config_list {
  config {
    name: "m"
    base_path: "/a \\"quoted\\" \\\\ folder"
    model_platform: "tensorflow"
    model_version_policy {
      specific {
        versions: 2
        versions: 5
      }
    }
  }
}
"""
    }


def test_the_container_serves_the_folder_that_is_mounted() -> None:
    _, spec = TFServingBackend().external_servers(Path("/store/m"), "m", (2,), LISTEN)
    assert spec.image is not None
    assert spec.image.name.startswith("tensorflow/serving:")
    assert (spec.launcher, spec.image.architectures) == ("docker", ("amd64",))
    options = flags(spec.argv)
    assert (options["port"], options["rest_api_port"]) == ("8500", "8501")
    assert set(options) <= FLAGS_OF_MAIN_CC
    assert 'base_path: "/models/m"\n' in spec.files["models.config"]
    assert spec.image.base_path == "/models/m"
    assert not spec.image.drains
