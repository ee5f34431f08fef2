"""The README's commands, run in order as they stand there, against real servers.

Only the ports are replaced by free ones: 8500 and 8501 may be in use on the machine.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _script() -> str:
    """Every bash and python block of the README, in order, as one script."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == [*["bash"] * 3, "python", *["bash"] * 2]
    steps = [
        code if language == "bash" else f"python - <<'PYTHON'\n{code}PYTHON\n"
        for language, code in blocks
    ]
    return "set -euxo pipefail\n" + "\n".join(steps)


def _free_ports() -> tuple[int, int]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture
def ports() -> tuple[int, int]:
    return _free_ports()


@pytest.mark.slow
def test_every_command_of_the_readme_works(home: Path, ports: tuple[int, int]) -> None:
    script = _script().replace("8500", str(ports[0])).replace("8501", str(ports[1]))
    up = "mlserve up --backend tfserving"
    assert up in script
    script = script.replace(up, f"{up} --grpc-port {ports[0]} --rest-port {ports[1]}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        subprocess.run([sys.executable, "-m", "mlserve", "down", "--all"], check=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sorrel") >= 6, done.stdout
    assert re.search(r'\{\s*"outputs":\s*\[\s*"sorrel"\s*\]\s*\}', done.stdout), done.stdout
    assert not list((home / "state").rglob("*.json"))


@pytest.mark.slow
def test_the_demo_prints_sorrel_from_real_weights() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "examples" / "demo.sh"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    top = next(line.split("\t") for line in lines if line.count("\t") == 2)
    assert "sorrel" in lines
    assert top[2] == "sorrel"
    assert 0.6 < float(top[0]) < 1
    assert "random" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_every_command_is_in_the_readme() -> None:
    from mlserve.cli.app import app

    text = (ROOT / "README.md").read_text()
    names = [command.name for command in app.registered_commands]
    assert names
    for name in names:
        assert f"mlserve {name}" in text or f"`{name}`" in text, name
