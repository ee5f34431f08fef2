"""`mlserve deploy systemd` and `mlserve deploy compose`: what they write, checked by others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve.deploy import systemd
from mlserve.deploy.systemd import Machine, unit_files
from tests.deploy.conftest import MakePlan
from tests.harness.command import Command

pytestmark = pytest.mark.server
Export = Callable[..., Path]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef0123456789abcdef")
    path.chmod(0o600)
    return path


@pytest.fixture
def deploy(tmp_path: Path, export: Export) -> Callable[..., Any]:
    """Runs `mlserve deploy ARGS` for an exported model."""
    export()
    return lambda *args: Command(tmp_path)("deploy", *args)


def _lines_of(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def test_units_are_those_of_the_plan_and_systemd_takes_them(
    deploy, tmp_path: Path, token: Path, home: Path
) -> None:
    units = tmp_path / "units"
    flags = ("--host", "0.0.0.0", "--rest-port", "9501", "--drain-timeout", "20", "--wait", "60.5")
    flags += ("--token-file", str(token), "--cpus", "1.5", "--memory", "2Gi", "--max-queue", "3")

    done = deploy("systemd", *flags, "--version", "1", "--output-dir", str(units))

    assert done.returncode == 0, done.stderr
    names = ["mlserve-m-grpc.socket", "mlserve-m-rest.socket", "mlserve-m.service"]
    assert sorted(path.name for path in units.iterdir()) == names
    assert "warning: the token is sent unencrypted to 0.0.0.0" in done.stderr
    assert "systemctl enable --now mlserve-m-grpc.socket mlserve-m-rest.socket" in done.stderr
    service = _lines_of((units / "mlserve-m.service").read_text())
    assert (
        service
        | {
            "TimeoutStopSec": "35",
            "TimeoutStartSec": "91",
            "KillMode": "mixed",
            "CPUQuota": "150%",
            "MemoryMax": str(2**31),
            "LoadCredential": f"token_file:{token}",
            "DynamicUser": "yes",
        }
        == service
    )
    text = (units / "mlserve-m.service").read_text()
    assert f"--path={home}/data/models/echo/m \\\n    --backend=echo --model=m" in text.replace(
        "--backend=echo \\\n    ", "--backend=echo "
    )
    assert "--version=1" in text
    assert "--token-file=%d/token_file" in text
    socket = _lines_of((units / "mlserve-m-rest.socket").read_text())
    assert (socket["ListenStream"], socket["FileDescriptorName"]) == ("0.0.0.0:9501", "rest")
    if shutil.which("systemd-analyze") is not None:
        _verify([units / name for name in names])


def _verify(units: list[Path]) -> None:
    argv = ["systemd-analyze", "verify", *map(str, units)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_units_for_a_user_of_the_machine_are_printed(deploy) -> None:
    done = deploy("systemd", "--user", "serving", "--executable", "/opt/m%/mlserve", "--print")

    assert done.returncode == 0, done.stderr
    assert "\nUser=serving\n" in done.stdout
    assert "DynamicUser" not in done.stdout
    assert "\nExecStart=/opt/m%%/mlserve up --foreground " in done.stdout
    assert "\n# mlserve-m-grpc.socket\n" in done.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("systemd", "--host", "localhost"), "'localhost' is not a valid value of --host"),
        (("systemd", "--user", "a b"), "'a b' is not a valid value of --user"),
        (("systemd", "--executable", "./mlserve"), "'./mlserve' is not a valid value of --exec"),
        (("systemd", "--memory", "1Gi", "--max-queue-bytes", str(2**30)), "let requests take"),
        (("compose", "--version", "all"), "an image holds one version"),
        (("compose", "--shadow", "http://localhost:8501"), "would be the container itself"),
        (("systemd", "--cpus", "0"), "--cpus must be above 0"),
        (("compose", "--rest-port", "8500"), "--grpc-port and --rest-port are both 8500"),
    ],
)
def test_what_cannot_be_is_refused(deploy, flags: tuple[str, ...], told: str) -> None:
    done = deploy(*flags, "--print")
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_a_model_behind_a_link_into_a_home_is_visible(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_HIDDEN", (tmp_path / "homes",))
    plan = make_plan()
    there = tmp_path / "homes" / "flowers"
    there.parent.mkdir()
    plan.model.base_path.rename(there)
    plan.model.base_path.symlink_to(there)

    units = unit_files(plan, Machine(("/opt/mlserve/bin/mlserve",)))

    assert f"BindReadOnlyPaths={there}\n" in units["mlserve-flowers.service"]


def test_a_compose_file_is_the_plan_and_compose_takes_it(
    deploy, tmp_path: Path, token: Path
) -> None:
    flags = ("--image", "registry.example/m:3", "--cpus", "1.5", "--memory", "2Gi")
    flags += ("--token-file", str(token), "--drain-timeout", "20", "--host", "127.0.0.1")

    done = deploy("compose", *flags, "--grpc-port", "9500", "--output-dir", str(tmp_path))

    assert done.returncode == 0, done.stderr
    command = str(Path(sys.executable).with_name("docker-compose"))
    argv = [command, "--file", str(tmp_path / "compose.yaml"), "config", "--format", "json"]
    read = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (read.returncode, read.stderr) == (0, "")
    told = json.loads(read.stdout)
    server = told["services"]["server"]
    assert server["command"] == [
        "--threads=2",
        "--drain-timeout=20.0",
        "--token-file=/run/mlserve/token_file",
    ]
    assert server["deploy"]["resources"]["limits"] == {"cpus": 1.5, "memory": str(2**31)}
    assert (server["stop_grace_period"], server["read_only"]) == ("30s", True)
    assert (server["cap_drop"], server["tmpfs"]) == (["ALL"], ["/tmp"])
    owner = token.stat()
    assert server["user"] == f"{owner.st_uid}:{owner.st_gid}"
    assert {(p["host_ip"], p["published"], p["target"]) for p in server["ports"]} == {
        ("127.0.0.1", "9500", 8500),
        ("127.0.0.1", "8501", 8501),
    }
    assert told["secrets"]["token_file"]["file"] == str(token)

    (tmp_path / "compose.yaml").write_text("services: {}\n")
    again = deploy("compose", *flags, "--output-dir", str(tmp_path))
    assert again.returncode == 2
    assert "was not written by mlserve deploy" in again.stderr
