"""`mlserve-model-server` asked by TensorFlow Serving's official client, with echo models.

The last test is of the installed command with a SavedModel.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from mlserve_model_server.command import COMMAND

from mlserve.testing.processes import wait_until
from tests.harness.model_server import ECHO

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]

OPEN = "--model_control=on"
EARLY = "--allow_version_labels_for_unavailable_models"


def entry(path: Path, policy: str = "", labels: Mapping[str, int] | None = None) -> str:
    named = "".join(
        f'version_labels {{ key: "{label}" value: {version} }} '
        for label, version in (labels or {}).items()
    )
    chosen = f"model_version_policy {{ {policy} }}" if policy else ""
    where = f'name: "{path.name}" base_path: "{path}" model_platform: "tensorflow"'
    return f"config {{ {where} {chosen} {named} }}"


def listed(*entries: str) -> str:
    return f"model_config_list {{ {' '.join(entries)} }}"


@pytest.fixture(scope="session")
def official() -> Any:
    """The official modules by name."""
    from google.protobuf import text_format
    from tensorflow_serving import apis
    from tensorflow_serving.apis import (  # noqa: F401
        get_model_status_pb2,
        model_management_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    def reload(server: Any, config: str, timeout: float = 20, token: str = "") -> Any:
        request = apis.model_management_pb2.ReloadConfigRequest()
        text_format.Parse(config, request.config)
        with grpc.insecure_channel(server.grpc) as channel:
            stub = apis.model_service_pb2_grpc.ModelServiceStub(channel)
            metadata = [("authorization", f"Bearer {token}")] if token else []
            return stub.HandleReloadConfigRequest(request, timeout, metadata)

    apis.reload = reload
    return apis


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code().name, error.value.details()


def test_models_versions_and_labels(launch: Any, put: Any, official: Any, tmp_path: Path) -> None:
    for path in ("a/1", "a/2", "a/3", "b/5"):
        put(path)
    config = tmp_path / "models.config"
    labels = {"stable": 2, "canary": 3}
    two = entry(tmp_path / "a", "latest { num_versions: 2 }", labels)
    config.write_text(listed(two, entry(tmp_path / "b")))
    server = launch(f"--model_config_file={config}", EARLY)
    wait_until(server.is_ready)
    wait_until(lambda: server.label("a") == "a/3")
    asked = ("a/versions/2", "a/labels/stable", "a/labels/canary", "b", "b/versions/5")
    assert [server.label(where) for where in asked] == ["a/2", "a/2", "a/3", "b/5", "b/5"]
    assert server.predict("b").headers["x-mlserve-served-by"].endswith("; certificate=none")
    unknown = server.predict("a/labels/new")
    assert (unknown.status_code, unknown.json()["error"]) == (
        400,
        "Unrecognized servable version label: new",
    )
    assert server.predict("a/versions/1").status_code == 404
    metadata = server.get("v1/models/a/labels/stable/metadata").json()
    assert metadata["model_spec"]["version"] == "2"
    with grpc.insecure_channel(server.grpc) as channel:
        models = official.model_service_pb2_grpc.ModelServiceStub(channel)
        status = official.get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "a"
        found = models.GetModelStatus(status, 10).model_version_status
        assert [(one.version, one.state) for one in found] == [(3, 30), (2, 30)]
        status.model_spec.version_label = "stable"
        assert [one.version for one in models.GetModelStatus(status, 10).model_version_status] == [
            2
        ]
        predictions = official.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = official.predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.version_label = "a", "stable"
        request.inputs["image"].dtype = 7
        request.inputs["image"].tensor_shape.dim.add(size=1)
        request.inputs["image"].string_val.append(b"x")
        response = predictions.Predict(request, 10)
        assert response.outputs["output_0"].string_val[0] == b"a/2"
        assert response.model_spec.version.value == 2
        request.model_spec.version_label = "new"
        assert refused(lambda: predictions.Predict(request, 10)) == (
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: new",
        )


def test_reload_by_request(launch: Any, put: Any, official: Any, tmp_path: Path) -> None:
    for path in ("a/1", "a/2", "b/1"):
        put(path)
    a, b, bad = tmp_path / "a", tmp_path / "b", tmp_path / "bad"
    put("bad/1", fail_load="damaged")
    server = launch(f"--model_base_path={a}", "--model_name=a", "--max_num_load_retries=0", OPEN)
    wait_until(server.is_ready)

    answer = official.reload(server, listed(entry(a, labels={"stable": 2}), entry(b)))
    assert (answer.status.error_code, answer.status.error_message) == (0, "")
    assert [server.label("a/labels/stable"), server.label("b")] == ["a/2", "b/1"]

    early = listed(entry(a, "all {}", {"stable": 1}))
    code, said = refused(lambda: official.reload(server, early))
    assert code == "FAILED_PRECONDITION"
    assert said.startswith("Request to assign label to version 1 of model a, which is not curr")
    assert server.label("b") == "b/1", "nothing has changed"

    official.reload(server, listed(entry(a, "all {}", {"stable": 2})))
    official.reload(server, early)
    assert server.label("a/labels/stable") == "a/1"
    assert server.predict("b").status_code == 404

    code, said = refused(lambda: official.reload(server, listed(entry(bad), entry(b))))
    assert (code, said) == ("UNAVAILABLE", "1 model(s) did not become available: bad: damaged")
    assert server.label("b") == "b/1"
    assert refused(lambda: official.reload(server, ""))[0] == "INVALID_ARGUMENT"
    code, said = refused(lambda: official.reload(server, "custom_model_config {}"))
    assert code == "INVALID_ARGUMENT"
    assert said.endswith("Only ModelConfigList is currently supported")
    onnx = listed(entry(b).replace("tensorflow", "onnx"))
    assert "unsupported platform onnx" in refused(lambda: official.reload(server, onnx))[1]
    assert server.label("b") == "b/1"


def test_nobody_changes_the_models_of_an_open_server(
    launch: Any, put: Any, official: Any, tmp_path: Path
) -> None:
    """It listens on every address. The answer does not tell whether a path is there either."""
    put("a/1")
    put("b/1")
    server = launch(f"--model_base_path={tmp_path / 'a'}", "--model_name=a")
    wait_until(server.is_ready)
    answers = {
        refused(lambda path=path: official.reload(server, listed(entry(path))))
        for path in (tmp_path / "b", tmp_path / "nowhere", Path("/proc/1/root"))
    }
    ((code, said),) = answers
    assert code == "PERMISSION_DENIED"
    assert said.startswith("this server does not let anyone load or unload its models")
    assert server.label("a") == "a/1"


def test_who_has_the_token_changes_the_models(
    launch: Any, put: Any, official: Any, tmp_path: Path
) -> None:
    put("a/1")
    put("b/1")
    (tmp_path / "token").write_text("a-token-of-the-tests\n")
    (tmp_path / "token").chmod(0o600)
    a, b = tmp_path / "a", tmp_path / "b"
    token_file = f"--token_file={tmp_path / 'token'}"
    server = launch(f"--model_base_path={a}", "--model_name=a", token_file)
    wait_until(server.is_ready)
    for token in ("", "wrong"):
        said = refused(lambda token=token: official.reload(server, listed(entry(b)), token=token))
        assert said[0] == "UNAUTHENTICATED"
    assert server.predict("a").status_code == 401
    answer = official.reload(server, listed(entry(b)), token="a-token-of-the-tests")
    assert answer.status.error_code == 0
    bearer = {"Authorization": "Bearer a-token-of-the-tests"}
    answered = httpx.post(
        f"http://{server.rest}/v1/models/b:predict", json={"inputs": ["x"]}, headers=bearer
    )
    assert answered.json() == {"outputs": ["b/1"]}


STRANGE = [
    ('name: "m\\n2026-01-01 INFO all is well"', "'m\\n2026-01-01 INFO all is well' is not a"),
    ('name: "\\033[2Jm"', "'\\x1b[2Jm' is not a valid model name"),
    ('name: "\\302\\233m"', "'\\x9bm' is not a valid model name"),
    ('name: "m\\000"', "'m\\x00' is not a valid model name"),
    ('name: "m" base_path: "/a\\000b"', "'/a\\x00b' is not a valid base_path"),
    ('name: "m" base_path: "/a\\nb"', "'/a\\nb' is not a valid base_path"),
    ('name: "m" version_labels { key: "\\r" value: 1 }', "is not a valid version label"),
    (f'name: "{"n" * 256}"', "it has 256 characters, and may have 255"),
    (f'name: "m" base_path: "/{"n" * 5000}"', "it has 5001 characters, and may have 4096"),
]
"""A model of a configuration, and what the refusal says of it."""


def test_strange_names_are_refused_before_anything_changes(
    launch: Any, put: Any, official: Any, tmp_path: Path
) -> None:
    put("a/1")
    put("b/1")
    server = launch(f"--model_base_path={tmp_path / 'a'}", "--model_name=a", OPEN)
    wait_until(server.is_ready)
    for config, said in STRANGE:
        path = "" if "base_path" in config else 'base_path: "/nowhere"'
        both = listed(entry(tmp_path / "b"), f"config {{ {config} {path} }}")
        code, told = refused(lambda both=both: official.reload(server, both))
        assert (code, said in told) == ("INVALID_ARGUMENT", True), told
    assert server.label("a") == "a/1"
    assert server.predict("b").status_code == 404
    lines = server.log().splitlines()
    assert max(map(len, lines)) < 5000
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("2026-01-01")]


def test_thousands_of_models_are_refused_before_anything_changes(
    launch: Any, put: Any, official: Any, tmp_path: Path
) -> None:
    put("a/1")
    server = launch(f"--model_base_path={tmp_path / 'a'}", "--model_name=a", OPEN)
    wait_until(server.is_ready)
    many = listed(*(f'config {{ name: "m{n}" base_path: "/nowhere/{n}" }}' for n in range(5000)))
    code, said = refused(lambda: official.reload(server, many))
    assert code == "INVALID_ARGUMENT"
    assert said == "the request has more than 1000 entries of 'config' in all"
    assert server.label("a") == "a/1"
    assert len(server.log()) < 5000


def test_no_request_fails_while_the_models_change(
    launch: Any, put: Any, official: Any, tmp_path: Path
) -> None:
    for path in ("a/1", "a/2", "other/a/1", "b/1"):
        put(path, delay=0.005, load_delay=0.02)
    a, other, b = tmp_path / "a", tmp_path / "other" / "a", tmp_path / "b"
    first = entry(a, "specific { versions: 1 }")
    configs = [
        listed(entry(a, "all {}", {"live": 1}), entry(b)),
        listed(entry(a, "all {}", {"live": 2})),
        listed(entry(a, "specific { versions: 2 }", {"live": 2})),
        listed(entry(a, "all {}", {"live": 2}), entry(b)),
        listed(entry(other, "all {}", {"live": 1}), entry(b)),
        listed(entry(a, "all {}", {"live": 1})),
        listed(entry(a, "specific { versions: 1 }", {"live": 1})),
    ]
    config = tmp_path / "models.config"
    config.write_text(listed(first))
    server = launch(f"--model_config_file={config}", OPEN)
    wait_until(server.is_ready)
    official.reload(server, configs[0])
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask(where: str) -> None:
        while not stop.is_set():
            answers.append(server.predict(where))

    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(ask, where) for where in ("a", "a/labels/live") * 2]
        try:
            for text in configs * 3:
                official.reload(server, text)
        finally:
            stop.set()
        for call in asked:
            call.result()
    assert [one.text for one in answers if one.status_code != 200] == []
    assert {one.json()["outputs"][0] for one in answers} == {"a/1", "a/2", "other/a/1"}


def test_the_file_is_followed(launch: Any, put: Any, tmp_path: Path) -> None:
    for path in ("a/1", "b/1"):
        put(path)
    a, b = tmp_path / "a", tmp_path / "b"
    config = tmp_path / "models.config"
    config.write_text(listed(entry(a)))
    flag = "--model_config_file_poll_wait_seconds=1"
    server = launch(f"--model_config_file={config}", flag)
    wait_until(server.is_ready)
    config.write_text(listed(entry(a), "config { nam: 1 }"))
    wait_until(lambda: "the model configuration is not in force: Invalid protobuf" in server.log())
    assert f"'{config}': Error parsing text-format" in server.log()
    assert server.label("a") == "a/1"
    config.write_text(listed(entry(b)))
    wait_until(lambda: server.label("b") == "b/1")
    wait_until(lambda: server.predict("a").status_code == 404)


def test_a_model_that_is_not_there_yet_is_waited_for(launch: Any, put: Any, tmp_path: Path) -> None:
    server = launch(f"--model_base_path={tmp_path / 'm'}", "--model_name=m")
    wait_until(lambda: "waiting for a version of m: the base path" in server.log())
    assert not server.is_ready()
    answer = server.predict("m")
    assert (answer.status_code, answer.json()["error"][:20]) == (503, "m has no version yet")
    put("m/1")
    wait_until(server.is_ready)
    assert server.label("m") == "m/1"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0


def test_a_model_that_cannot_be_loaded_ends_it(launch: Any, put: Any, tmp_path: Path) -> None:
    put("m/1", fail_load="damaged")
    flags = ("--max_num_load_retries=2", "--load_retry_interval_micros=1000")
    server = launch(f"--model_base_path={tmp_path / 'm'}", *flags)
    assert server.process.wait(60) == 255
    assert server.log().count("loading version 1 of default") == 3
    assert "ERROR damaged\n" in server.log()


def test_a_split_is_of_one_model(launch: Any, put: Any, official: Any, tmp_path: Path) -> None:
    for path in ("a/1", "a/2", "b/1"):
        put(path)
    a, b = tmp_path / "a", tmp_path / "b"
    flags = ("--split=v2=50%,differ=100%", "--model_name=a", OPEN)
    server = launch(f"--model_base_path={a}", *flags)
    wait_until(server.is_ready)
    wait_until(lambda: server.label("a/versions/2") == "a/2")
    assert {server.label("a") for _ in range(40)} == {"a/1", "a/2"}
    code, said = refused(lambda: official.reload(server, listed(entry(a), entry(b))))
    assert code == "INVALID_ARGUMENT"
    assert said.startswith("--split is for a version of one model, and 2 are configured")
    official.reload(server, listed(entry(a, "specific { versions: 1 versions: 2 }")))
    assert {server.label("a") for _ in range(40)} == {"a/1", "a/2"}


def test_a_unix_socket_beside_the_port(launch: Any, put: Any, tmp_path: Path) -> None:
    put("m/1")
    path = tmp_path / "socket"
    server = launch(
        f"--model_base_path={tmp_path / 'm'}", f"--grpc_socket_path={path}", "--grpc_max_threads=8"
    )
    wait_until(server.is_ready)
    for target in (f"unix:{path}", server.grpc):
        with grpc.insecure_channel(target) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=10)
    assert "--grpc_max_threads has no effect here: requests are taken" in server.log()


def test_without_rest_there_is_only_grpc(put: Any, tmp_path: Path) -> None:
    put("m/1")
    argv = [*ECHO, "--port=0", f"--model_base_path={tmp_path / 'm'}"]
    log = tmp_path / "log"
    with log.open("wb") as file, subprocess.Popen(argv, stderr=file) as process:
        wait_until(lambda: "version 1 of default is available" in log.read_text())
        assert "rest=off\n" in log.read_text()
        process.terminate()
        assert process.wait(60) == 0


def test_a_wrong_file_ends_it_at_once(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list {\n  config { nam: 1 }\n}\n")
    argv = [*ECHO, "--port=0", f"--model_config_file={config}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 255
    assert f"ERROR Invalid protobuf file: '{config}': " in done.stderr
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:12 : " in done.stderr


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).parent / COMMAND
    argv = [command, "--no_such"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (255, "")
    assert done.stdout.startswith("unknown argument: --no_such\nusage: mlserve-model-server\n")
