"""The address of a collector, and what is said where something cannot be sent there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlserve import distributions
from mlserve.backend import Listen
from mlserve.errors import ExitCode, PluginError, UsageError
from mlserve.launch.docker.plan import plan_of_built, run_options
from mlserve.launch.launchers import launcher_named
from mlserve.launch.records import ServerRecord
from mlserve.otlp import CollectorAddress, require_sdk
from mlserve.served_model import ServedModel
from mlserve.serving import Serving
from mlserve.settings import ServerSettings

MODEL = ServedModel("echo", "m", Path("nowhere"))


def serving(url: str, *docker_options: str) -> Serving:
    return Serving((MODEL,), ServerSettings(otlp=url), docker_options=docker_options)


@pytest.mark.parametrize(
    ("url", "protocol", "speaks_grpc", "authority"),
    [
        ("http://collector:4318", "", False, "collector:4318"),
        ("http://collector:4317", "", True, "collector:4317"),
        ("http://collector:4317", "http/protobuf", False, "collector:4317"),
        ("http://collector:4318", "grpc", True, "collector:4318"),
        ("http://collector:4317/otlp", "", False, "collector:4317"),
        ("grpc://collector", "http/protobuf", True, "collector:4317"),
        ("grpcs://[::1]:9000", "", True, "[::1]:9000"),
        ("https://vendor.example/otlp/", "", False, "vendor.example:443"),
    ],
)
def test_addresses(
    url: str, protocol: str, speaks_grpc: bool, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    found = CollectorAddress.of(url)
    assert found.speaks_grpc is speaks_grpc
    assert found.authority == authority
    assert found.is_secure is url.startswith(("https", "grpcs"))


@pytest.mark.parametrize(
    "url",
    [
        *("collector:4317", "localhost", "", "ftp://collector", "http://", "http://c:port"),
        *("grpc://c:4317/path", "http://c:4318/?q=1", "http://user:secret@c:4318"),
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerSettings(otlp=url)
    assert "--otlp" in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.hint


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "absent_packages", lambda *_: ["opentelemetry-sdk"])


@pytest.mark.usefixtures("not_installed")
def test_without_the_extra_the_command_is_told() -> None:
    with pytest.raises(PluginError) as caught:
        require_sdk()
    assert caught.value.message == ("--otlp needs opentelemetry-sdk, which is not installed")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("pip install ")
    assert "[otlp]" in caught.value.hint


@pytest.mark.server
def test_a_server_without_the_extra_ends_with_the_command(tmp_path: Path) -> None:
    """Where the packages are not on the path: as `-m mlserve.server` is run in an image."""
    code = (
        "import mlserve.distributions as d, runpy, sys\n"
        "d.absent_packages = lambda *_: ['opentelemetry-sdk']\n"
        "runpy.run_module('mlserve.server', run_name='__main__', alter_sys=True)\n"
    )
    argv = [sys.executable, "-c", code, "--backend=echo", "--model=m", f"--base-path={tmp_path}"]
    done = subprocess.run(
        [*argv, "--grpc-port=0", "--rest-port=0", "--otlp=http://localhost:4318"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.PLUGIN, done.stderr
    assert "ERROR" in done.stderr
    assert "--otlp needs opentelemetry-sdk, which is not installed" in done.stderr
    assert "hint: pip install " in done.stderr


def test_a_third_party_server_does_not_take_it() -> None:
    with pytest.raises(UsageError, match="the native launcher does not take --otlp"):
        launcher_named("native").require(serving("http://collector:4318"))


def test_a_container_is_not_its_host() -> None:
    for url in ("http://127.0.0.1:4318", "grpc://localhost:4317"):
        with pytest.raises(UsageError, match="would be the container itself") as caught:
            plan_of_built("image", serving(url))
        assert "host.docker.internal" in (caught.value.hint or "")
    for options in (("--network=host",), ("--net", "host"), ("--network", "container:agent")):
        plan = plan_of_built("image", serving("http://127.0.0.1:4318", *options))
        assert "--otlp=http://127.0.0.1:4318" in plan.argv
    assert plan_of_built("image", serving("http://collector:4318")).argv


def test_a_container_gets_the_variables_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/on/this/machine.pem")
    plan = plan_of_built("image", serving("http://collector:4318"))
    assert "OTEL_EXPORTER_OTLP_HEADERS" in plan.inherited
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" not in plan.inherited
    assert plan_of_built("image", Serving((MODEL,))).inherited == ()
    listen = Listen("127.0.0.1", 8500, 8501)
    record = ServerRecord("m", serving("http://c:4318"), "docker", listen, 0, 0.0, None, "", False)
    arguments = run_options(plan, record)
    place = arguments.index("OTEL_EXPORTER_OTLP_HEADERS")
    assert arguments[place - 1] == "--env"
    assert not any("secret" in argument for argument in arguments)
