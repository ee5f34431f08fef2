"""The flags and files of `mlserve-model-server`, read without starting a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlserve_model_server.command import COMMAND, options_of, run
from mlserve_model_server.flags import FLAGS, parse, usage
from mlserve_tfserving.backend import TFServingBackend

from mlserve.backend import Listen
from mlserve.errors import MlserveError, NotYet
from mlserve.options import flag_of
from mlserve.server.app import ServerOptions
from mlserve.settings import ModelControl, ServerSettings
from mlserve.store import VersionPolicy
from mlserve.system import usable_memory

BACKEND = TFServingBackend()
MODEL = ("--model_base_path=/models/m",)


def options(tmp_path: Path, *argv: str) -> ServerOptions:
    return options_of(parse(argv), BACKEND, tmp_path)


def written(folder: Path, text: str) -> str:
    path = folder / "file.txt"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--port=1"], "port", 1),
        (["--port", "1"], "port", 1),
        (["--model_name="], "model_name", ""),
        (["--enable_batching"], "enable_batching", True),
        (["--enable_batching=true"], "enable_batching", True),
        (["--enable_batching=1"], "enable_batching", True),
        (["--enable_batching=false"], "enable_batching", False),
        (["--enable_batching=0"], "enable_batching", False),
        (["--enable_batching", "--port=1"], "enable_batching", True),
        (["--per_process_gpu_memory_fraction=0.5"], "per_process_gpu_memory_fraction", 0.5),
        (["--file_system_poll_wait_seconds=-1"], "file_system_poll_wait_seconds", -1),
        (["--port=1", "--port=2"], "port", 2),
        ([], "rest_api_port", 0),
        ([], "model_name", "default"),
    ],
)
def test_the_syntax_of_flags(argv: list[str], name: str, value: Any) -> None:
    assert parse(argv).values[name] == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--no_such_flag=1"], "unknown argument: --no_such_flag=1"),
        (["--noenable_batching"], "unknown argument: --noenable_batching"),
        (["-port=1"], "unknown argument: -port=1"),
        (["models"], "unknown argument: models"),
        (["--enable_batching", "true"], "unknown argument: true"),
        (["--port"], "--port has no value"),
        (["--port=x"], "--port takes a value of type int, not 'x'"),
        (["--enable_batching=yes"], "--enable_batching takes a value of type bool, not 'yes'"),
    ],
)
def test_a_wrong_command_line_ends_with_the_usage(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv, BACKEND) == 255
    assert capsys.readouterr().out == f"{said}\n{usage(COMMAND)}"


def test_the_usage_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"], BACKEND) == 0
    shown = capsys.readouterr().out
    assert all(f"--{flag.name}=" in shown for flag in FLAGS)
    assert all(flag.help or flag.ignored for flag in FLAGS)


def test_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], BACKEND) == 0
    assert capsys.readouterr().out.startswith("mlserve ModelServer: ")


def test_the_documentation_tells_of_every_flag() -> None:
    docs = Path(__file__).parents[3] / "docs" / "model-server.md"
    told = docs.read_text()
    assert [flag.name for flag in FLAGS if f"`--{flag.name}`" not in told] == []


def test_the_documentation_tells_of_every_setting_of_the_server() -> None:
    told = (Path(__file__).parents[3] / "docs" / "model-server.md").read_text()
    flags = {name: (f"`--{name}`", f"`{flag_of(name)}`") for name in ServerSettings().to_json()}
    assert [name for name, either in flags.items() if not any(e in told for e in either)] == []


def test_what_our_native_launcher_passes_is_known() -> None:
    for versions in ((), (1, 2)):
        for spec in BACKEND.external_servers(
            Path("/models/m"), "m", versions, Listen("127.0.0.1", 1, 2)
        ):
            flags = [argument for argument in spec.argv if argument.startswith("--")]
            if spec.launcher == "native":
                assert not [flag.name for flag in parse(flags).without_effect()]


def test_flags_without_effect_are_named() -> None:
    given = parse(["--grpc_max_threads=4", "--enable_profiler=false", "--enable_model_warmup=0"])
    assert [flag.name for flag in given.without_effect()] == [
        "grpc_max_threads",
        "enable_model_warmup",
    ]


def test_the_defaults_are_those_of_tensorflow_serving(tmp_path: Path) -> None:
    made = options(tmp_path, *MODEL)
    (model,) = made.models
    assert (made.host, made.grpc_port, made.rest_port) == ("0.0.0.0", 8500, None)
    assert (model.model, model.base_path) == ("default", Path("/models/m"))
    assert (model.policy, model.poll_seconds) == (VersionPolicy(), 1.0)
    assert (model.retries.times, model.retries.seconds) == (5, 60.0)
    assert (made.settings.default_timeout, made.settings.max_batch_size) == (30.0, None)
    assert made.settings.grpc_socket is None
    assert made.threads is None
    assert not made.cors


def test_there_is_no_limit_but_the_memory(tmp_path: Path) -> None:
    settings = options(tmp_path, *MODEL).settings
    assert settings.max_batch_length == 2**31 - 1
    assert settings.max_request_bytes == min(2**31 - 1, usable_memory() // 2)
    assert settings.body_memory == usable_memory() // 2


def test_limits_of_mlserves_own_have_a_flag_here(tmp_path: Path) -> None:
    batching = written(tmp_path, "max_batch_size { value: 8 }")
    made = options(
        tmp_path,
        *MODEL,
        "--enable_batching",
        f"--batching_parameters_file={batching}",
        "--max_queue=7",
        "--max-request-bytes=1000",
        "--max_body_memory=500000",
        "--max_pixels=9",
        "--rest_api_enable_cors_support",
    )
    assert made.cors
    settings = made.settings
    assert (settings.max_queue, settings.max_batch_size, settings.max_pixels) == (7, 8, 9)
    assert (settings.max_request_bytes, settings.body_memory) == (1000, 500_000)
    with pytest.raises(MlserveError, match="--max-queue must be at least 0"):
        options(tmp_path, *MODEL, "--max_queue=-1")


def test_flags_with_an_effect(tmp_path: Path) -> None:
    made = options(
        tmp_path,
        *MODEL,
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=1500",
        "--tensorflow_session_parallelism=3",
        "--tensorflow_intra_op_parallelism=2",
        "--max_num_load_retries=0",
        "--load_retry_interval_micros=-1",
        "--file_system_poll_wait_seconds=0",
        "--grpc_socket_path=s",
    )
    (model,) = made.models
    assert (made.rest_port, made.settings.default_timeout, made.threads) == (8501, 1.5, 3)
    assert (model.options.threads, model.poll_seconds) == (2, 0.0)
    assert (model.retries.times, model.retries.seconds) == (0, 0.0)
    assert made.settings.grpc_socket == Path("s")


def test_a_file_of_models(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """
        model_config_list {
          config { name: "a" base_path: "/models/a" model_platform: "tensorflow"
                   model_version_policy { latest { num_versions: 2 } }
                   version_labels { key: "canary" value: 3 }
                   version_labels { key: "stable" value: 2 } }
          config { name: "b" base_path: "/models/b" model_type: TENSORFLOW
                   model_version_policy { specific { versions: 4 versions: 1 } }
                   logging_config { sampling_config { sampling_rate: 0.1 } } }
          config { name: "c" base_path: "/models/c" model_version_policy { all {} } }
        }  # the end
        """,
    )
    flags = (f"--model_config_file={config}", "--model_name=ignored")
    early = "--allow_version_labels_for_unavailable_models"
    a, b, c = options(tmp_path, *flags, early).models
    assert (a.model, a.base_path, a.policy) == ("a", Path("/models/a"), VersionPolicy(latest=2))
    assert a.labels == {"canary": 3, "stable": 2}
    assert b.policy == VersionPolicy((1, 4))
    assert c.policy == VersionPolicy(serves_all=True)
    with pytest.raises(NotYet, match=r"assign label to version \d of model a, which is not curr"):
        options(tmp_path, *flags)


PLAIN = 'model_config_list {{ config {{ name: "m" base_path: "/x" {} }} }}'
NO_MODEL = 'model_config_list { config { base_path: "/x" } }'
TWICE = 'config { name: "m" base_path: "/x" } config { name: "m" base_path: "/y" }'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model_config_list {\n  config { nam: 1 }\n}",
            "file.txt': Error parsing text-format tensorflow.serving.ModelServerConfig: 2:12 : ",
        ),
        ("model_config_list {", "Config: 1:19 : "),
        ("custom_model_config {}", "custom_model_config is not supported"),
        (NO_MODEL, "the model of base_path '/x' has no name"),
        (f"model_config_list {{ {TWICE} }}", "Illegal to list model m multiple times"),
        ('model_config_list { config { name: "m" base_path: "x" } }', "to have an absolute path"),
        (
            'model_config_list { config { name: "m" base_path: "gs://x" } }',
            "absolute path; got base_path()=gs://x",
        ),
        (
            PLAIN.format('model_platform: "onnx"'),
            "Model m requests unsupported platform onnx; there is: tensorflow",
        ),
        (PLAIN.format("model_type: OTHER"), "unsupported platform other"),
        (
            PLAIN.format('model_type: TENSORFLOW model_platform: "tensorflow"'),
            "Illegal setting both model_type (deprecated) and model_platform of m",
        ),
        (
            PLAIN.format("model_version_policy { specific {} }"),
            "the specific version policy of m names no version",
        ),
    ],
)
def test_a_wrong_file_of_models(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(MlserveError) as refused:
        options(tmp_path, f"--model_config_file={written(tmp_path, text)}")
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "neither --model_config_file nor --model_base_path is given"),
        (["--model_config_file=/no/such/file"], "/no/such/file cannot be read"),
        (["--model_base_path=m"], "Expected model default to have an absolute path"),
        ([*MODEL, "--rest_api_port=8500"], "--rest_api_port cannot be same as --port"),
        ([*MODEL, "--port=70000"], "--port must be from 0 to 65535, not 70000"),
        ([*MODEL, "--batching_parameters_file=x"], "is given without --enable_batching"),
        ([*MODEL, "--rest_api_timeout_in_ms=0"], "default-timeout must be at least 0.001"),
    ],
)
def test_flags_that_do_not_fit(argv: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(MlserveError) as refused:
        options(tmp_path, *argv)
    assert said in refused.value.message


def test_batching(tmp_path: Path) -> None:
    on = (*MODEL, "--enable_batching")
    plain = options(tmp_path, *on)
    assert (plain.settings.max_batch_size, plain.settings.max_batch_delay) == (1000, 0.0)
    path = written(
        tmp_path,
        "max_batch_size { value: 8 } batch_timeout_micros { value: 2500 } "
        "max_enqueued_batches { value: 4 } num_batch_threads { value: 3 } "
        "allowed_batch_sizes: 4 allowed_batch_sizes: 8 pad_variable_length_inputs: true",
    )
    made = options(tmp_path, *on, f"--batching_parameters_file={path}")
    assert (made.settings.max_batch_size, made.settings.max_batch_delay) == (8, 0.0025)
    assert (made.settings.max_queue, made.threads) == (32, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1, not 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1, not 0"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "end with max_batch_size, 8"),
        ("max_batch_size: 8", "BatchingParameters: 1:17 : "),
    ],
)
def test_wrong_batching(tmp_path: Path, text: str, said: str) -> None:
    flags = ("--enable_batching", f"--batching_parameters_file={written(tmp_path, text)}")
    with pytest.raises(MlserveError) as refused:
        options(tmp_path, *MODEL, *flags)
    assert said in refused.value.message


def test_who_may_ask_and_who_may_change_the_models(tmp_path: Path) -> None:
    given = options(tmp_path, *MODEL, "--token_file=/run/token", "--model_control=off").settings
    assert (given.token_file, given.model_control) == (Path("/run/token"), ModelControl.OFF)
    hyphens = options(tmp_path, *MODEL, "--token-file=/run/token").settings
    assert (hyphens.token_file, hyphens.model_control) == (Path("/run/token"), ModelControl.AUTO)
    assert options(tmp_path, *MODEL).settings.token_file is None
    with pytest.raises(MlserveError, match="'maybe' is not a valid value of --model-control"):
        options(tmp_path, *MODEL, "--model_control=maybe")


def test_keys_are_written_for_the_server_alone(tmp_path: Path) -> None:
    text = 'server_key: "K" server_cert: "C" custom_ca: "A" client_verify: true'
    settings = options(tmp_path, *MODEL, f"--ssl_config_file={written(tmp_path, text)}").settings
    assert settings.tls_key is not None
    assert settings.tls_cert is not None
    assert settings.tls_client_ca is not None
    assert settings.tls_key.stat().st_mode & 0o777 == 0o600
    files = (settings.tls_key, settings.tls_cert, settings.tls_client_ca)
    assert [file.read_text() for file in files] == ["K", "C", "A"]
    text = 'server_key: "K" server_cert: "C" custom_ca: "A"'
    settings = options(tmp_path, *MODEL, f"--ssl_config_file={written(tmp_path, text)}").settings
    assert settings.tls_client_ca is None, "no certificate is asked of clients"


@pytest.mark.parametrize(
    "text", ['server_key: "K"', 'server_key: "K" server_cert: "C" client_verify: true']
)
def test_keys_that_are_missing(tmp_path: Path, text: str) -> None:
    with pytest.raises(MlserveError, match=r"must give|no custom_ca"):
        options(tmp_path, *MODEL, f"--ssl_config_file={written(tmp_path, text)}")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: true path: "/m" }', "/m"),
        ('prometheus_config { path: "/m" }', None),
    ],
)
def test_where_the_metrics_are_asked_for(tmp_path: Path, text: str, path: str | None) -> None:
    file = f"--monitoring_config_file={written(tmp_path, text)}"
    assert options(tmp_path, *MODEL, file, "--rest_api_port=8501").metrics_path == path


def test_metrics_need_the_rest_port(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "prometheus_config { enable: true }"
    options(tmp_path, *MODEL, f"--monitoring_config_file={written(tmp_path, text)}")
    assert "it needs --rest_api_port" in caplog.text
