"""The container of a server as data: what `docker run` gets, and what is refused before that."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Listen
from mlserve.errors import PluginError, UsageError
from mlserve.launch.docker import engine, images
from mlserve.launch.docker.container import ContainerState
from mlserve.launch.docker.dockerfile import HEALTHCHECK
from mlserve.launch.docker.images import BuildRequest, write_context
from mlserve.launch.docker.plan import (
    plan_of_built,
    require_mountable,
    run_options,
)
from mlserve.launch.docker.run import plan_of
from mlserve.launch.records import ServerRecord
from mlserve.launch.running import server_of
from mlserve.load_options import DEFAULT_LOAD_OPTIONS, LoadOptions
from mlserve.model_choice import choose
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import DOCKER, REST_PORT, ServerSettings
from mlserve.store import VersionPolicy

LATEST = VersionPolicy()
RECORD = ServerRecord(
    name="echo-m",
    serving=Serving(
        (ServedModel("echo", "m", Path("/store/echo/m"), VersionPolicy((1,))),),
        docker_options=("--memory=2g",),
    ),
    launcher=DOCKER,
    listen=Listen("127.0.0.1", 18500, 18501),
    pid=0,
    pid_created=0.0,
    log=None,
    started="2026-01-01T00:00:00+00:00",
    is_ready=False,
)


def tensorflow_serving(tmp_path: Path, **changes: object) -> Serving:
    (tmp_path / "m" / "1").mkdir(parents=True, exist_ok=True)
    model = choose("tfserving", "m", tmp_path / "m", LATEST)
    own = {name: value for name, value in changes.items() if hasattr(model, name)}
    others = {name: value for name, value in changes.items() if name not in own}
    return Serving((replace(model, **own),), **others)


def after(arguments: list[str], flag: str) -> list[str]:
    return [value for key, value in pairwise(arguments) if key == flag]


def test_a_container_listens_on_the_host_that_was_asked_for_only() -> None:
    plan = plan_of_built("image", _serving(options=LoadOptions(threads=2)))

    arguments = run_options(plan, RECORD, "7:7")

    assert after(arguments, "--publish") == ["127.0.0.1:18500:8500", "127.0.0.1:18501:8501"]
    assert {"--read-only", "--cap-drop", "no-new-privileges"} <= set(arguments)
    assert arguments[-3:] == ["--memory=2g", "image", "--threads=2"]
    assert "--user" not in arguments  # nothing of the user's has to be read: the image's own
    everywhere = run_options(plan, replace(RECORD, listen=Listen("::1", 18500, 18501)), None)
    assert after(everywhere, "--publish")[0] == "[::1]:18500:8500"


def test_the_health_check_asks_the_port_that_a_container_listens_on() -> None:
    """It is a file on its own, which imports nothing of mlserve's."""
    assert f'"REST_API_PORT", "{REST_PORT}"' in HEALTHCHECK.read_text()


def test_the_label_gives_the_record_back() -> None:
    labels = dict(
        label.split("=", 1)
        for label in after(run_options(plan_of_built("i", _serving()), RECORD, None), "--label")
    )
    told = {
        "Id": "0123456789abcdef",
        "State": {"Running": True, "Pid": 42},
        "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
        "Config": {"Labels": labels},
    }

    found = ContainerState.from_inspect(told).record

    assert found == replace(RECORD, container="0123456789abcdef", pid=42, is_ready=True)
    assert found is not None
    assert found.identity == "container 0123456789ab"
    assert ServerRecord.from_json(json.loads(json.dumps(found.to_json()))) == found
    foreign = told | {"Config": {"Labels": {"mlserve.record": "{}"}}}
    assert ContainerState.from_inspect(foreign).record is None


@pytest.mark.parametrize(
    "forged", [{"name": "../../../escaped"}, {"settings": {"token_file": "/etc/passwd"}}]
)
def test_a_label_that_somebody_else_wrote_is_no_record(forged: dict[str, object]) -> None:
    """An image can carry any label: a record in it would name files to write and to send."""
    arguments = run_options(plan_of_built("i", _serving()), RECORD, None)
    labels = dict(label.split("=", 1) for label in after(arguments, "--label"))
    text = json.dumps(json.loads(labels["mlserve.record"]) | forged)
    for seal_ in (labels["mlserve.seal"], ""):
        told = {
            "Id": "0123456789abcdef",
            "State": {"Running": True},
            "Config": {"Labels": labels | {"mlserve.record": text, "mlserve.seal": seal_}},
        }
        assert ContainerState.from_inspect(told).record is None
    del labels["mlserve.seal"]
    told = {"Id": "0123456789abcdef", "State": {}, "Config": {"Labels": labels}}
    assert ContainerState.from_inspect(told).record is None


def test_the_uptime_of_a_container_counts_from_its_start() -> None:
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")

    record = replace(RECORD, container="0123", started=an_hour_ago)
    assert 3600 <= server_of(record).uptime() < 3660


def test_files_of_settings_are_mounted_and_read_as_the_user(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for file in (cert, key):
        file.write_text("")
    settings = ServerSettings(token_file=token, tls_cert=cert, tls_key=key, max_queue=3)

    plan = plan_of_built("image", replace(_serving(), settings=settings))

    require_mountable(plan)
    assert plan.mounts == {
        str(token): "/run/mlserve/token_file",
        str(cert): "/run/mlserve/tls_cert",
        str(key): "/run/mlserve/tls_key",
    }
    assert plan.argv == (
        "--max-queue=3",
        "--token-file=/run/mlserve/token_file",
        "--tls-cert=/run/mlserve/tls_cert",
        "--tls-key=/run/mlserve/tls_key",
    )
    arguments = run_options(plan, RECORD, "7:7")
    assert after(arguments, "--user") == ["7:7"]
    assert "--no-healthcheck" not in arguments  # the health check of the image speaks TLS
    mutual = plan_of_built(
        "image", replace(_serving(), settings=replace(settings, tls_client_ca=cert))
    )
    assert "--no-healthcheck" in run_options(mutual, RECORD, None)  # it has no certificate
    token.unlink()
    with pytest.raises(UsageError, match="there is no"):
        require_mountable(plan)


def test_another_makers_image_gets_the_folder_and_the_flags(tmp_path: Path) -> None:
    serving = tensorflow_serving(tmp_path)

    plan = plan_of(plugins.backend("tfserving"), serving)

    assert plan.image.startswith("tensorflow/serving:")
    assert plan.entrypoint == "tensorflow_model_server"
    assert plan.mounts == {str(tmp_path / "m"): "/models/m"}
    assert "--model_base_path=/models/m" in plan.argv
    named = tensorflow_serving(tmp_path, versions=VersionPolicy((1,)), image="mirror/serving:1")
    plan = plan_of(plugins.backend("tfserving"), named)
    assert plan.image == "mirror/serving:1"
    assert "--model_config_file=/run/mlserve/models.config" in plan.argv
    assert sorted(plan.mounts.values()) == ["/models/m", "/run/mlserve"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settings": ServerSettings(max_queue=1)}, "does not take --max-queue"),
        ({"options": LoadOptions(threads=2)}, "does not take --threads"),
        ({"versions": VersionPolicy(serves_all=True)}, "cannot follow all versions"),
    ],
)
def test_what_another_makers_server_cannot_do_is_refused(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    serving = tensorflow_serving(tmp_path, **changes)

    with pytest.raises(UsageError, match=told) as refused:
        images.require_regarded(plugins.backend("tfserving"), serving)
    assert "--launcher embedded" in (refused.value.hint or "")


def test_an_image_of_ours_holds_one_version(export) -> None:
    export(version=1)
    export(version=2)
    echo = plugins.backend("echo")

    all_of_them = Serving((choose("echo", "m", None, VersionPolicy(serves_all=True)),))
    with pytest.raises(UsageError, match="an image holds one version"):
        images.require_regarded(echo, all_of_them)
    pinned = images.pinned(echo, Serving((choose("echo", "m", None, LATEST),)))
    assert pinned.only.versions == VersionPolicy((2,))


@pytest.mark.parametrize(
    ("backend", "model", "tag"),
    [
        ("echo", "m", "mlserve-echo-m:3"),
        ("onnxruntime", "efficientnet_lite0", "mlserve-onnxruntime-efficientnet_lite0:3"),
        ("echo", "-Defects__V2.", "mlserve-echo-defects_v2:3"),
    ],
)
def test_tags_are_names_that_docker_takes(backend: str, model: str, tag: str) -> None:
    assert images.image_tag(backend, model, 3) == tag


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            engine.NoEngine,
            "no container engine answers at ",
        ),
        (
            "permission denied while trying to connect to the Docker daemon socket at unix:///x",
            engine.NoEngine,
            "no permission to use the container engine at ",
        ),
        (
            "Error response from daemon: no such thing\nSee 'docker run --help'.",
            engine.EngineRefused,
            "docker run failed: Error response from daemon: no such thing",
        ),
        ("", engine.EngineRefused, "docker run failed: it gave no reason"),
    ],
)
def test_what_docker_says_becomes_an_error_with_a_way_out(said: str, kind: type, told: str) -> None:
    error = engine.refusal(("run",), said)

    assert type(error) is kind
    assert error.message.startswith(told)
    ways = "mlserve up --launcher embedded, or mlserve build --file-only DIR"
    assert ways in str(error.hint) or kind is engine.EngineRefused


def test_a_shadow_at_an_address_that_is_the_container_itself_is_refused() -> None:
    def planned(shadow: str, *options: str) -> str:
        serving = replace(_serving(), settings=ServerSettings(shadow=shadow))
        return " ".join(plan_of_built("i", replace(serving, docker_options=options)).argv)

    for shadow in ("http://localhost:8501", "127.0.0.1:8500"):
        with pytest.raises(UsageError, match=r"\(--shadow\) would be the container itself"):
            planned(shadow)
        assert f"--shadow={shadow}" in planned(shadow, "--network=host")
    assert "--shadow=other:8500" in planned("other:8500")


def test_without_a_docker_command_the_way_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(PluginError, match="docker is not on PATH") as refused:
        engine.docker("ps")
    assert "--launcher embedded" in (refused.value.hint or "")


def test_an_image_can_be_read_by_everyone_in_it(export, tmp_path: Path, home: Path) -> None:
    base = export()
    base.rename(home / "data/models/tf")
    manifest = home / "data/models/tf/1/mlserve.json"
    manifest.write_text(manifest.read_text().replace('"echo"', '"tfserving"'))
    (home / "data/models/tf/1").chmod(0o700)
    (home / "data/models/tf/1/labels.txt").chmod(0o600)
    serving = choose("tfserving", "m", home / "data/models/tf", LATEST)
    request = BuildRequest(plugins.backend("tfserving"), Artifact.open(serving.base_path, "m", 1))

    write_context(request, tmp_path / "image")

    assert stat.S_IMODE((tmp_path / "image/model").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "image/model/labels.txt").stat().st_mode) == 0o644
    text = (tmp_path / "image/Dockerfile").read_text()
    assert f'mlserve.digest="{images.folder_digest(serving.base_path / "1")}"' in text
    with pytest.raises(UsageError, match="is not empty"):
        write_context(request, tmp_path / "image")


def test_a_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text("text")
    before = images.folder_digest(tmp_path / "one")

    assert before == images.folder_digest(tmp_path / "two")
    (tmp_path / "two" / "inner" / "file").rename(tmp_path / "two" / "inner" / "other")
    assert before != images.folder_digest(tmp_path / "two")


def _serving(options: LoadOptions = DEFAULT_LOAD_OPTIONS) -> Serving:
    path = Path("/store/m")
    model = ServedModel("echo", "m", path, options=options, expected=(1,), takes_images=True)
    return Serving((model,))


@pytest.mark.parametrize("name", ["grpc_socket", "rest_socket", "record"])
def test_what_would_be_inside_of_the_container_is_refused(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    given: dict[str, Any] = {name: Path("/tmp/there")}
    serving = replace(_serving(), settings=ServerSettings(**given))
    with pytest.raises(UsageError, match=f"{flag} is for a server outside of containers") as told:
        plan_of_built("image", serving)
    assert "leave it out" in (told.value.hint or "")
