"""Version 0 from `up` to `predict`, through the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlserve.images import tiny_png

pytestmark = pytest.mark.slow


def test_version_0_is_served_asked_and_described(cli, export, tmp_path: Path) -> None:
    export(version=0, label="zero")
    export(version=1, label="one")
    image = tmp_path / "image.png"
    image.write_bytes(tiny_png())

    up = cli.up("--version", "0")

    assert up.stdout.startswith("m version 0 is ready"), up.stderr
    [server] = cli.ps()
    assert server["versions"] == [0]
    for protocol in ("grpc", "rest"):
        for options in ((), ("--version", "0")):
            asked = cli("predict", str(image), "--protocol", protocol, *options)
            assert (asked.stdout, asked.returncode) == ("zero\n", 0), asked.stderr
        for command in ("status", "metadata"):
            done = cli(command, "--protocol", protocol, "--version", "0", "--output", "json")
            found = json.loads(done.stdout)
            versions = [v["version"] for v in found.get("versions", [found])]
            assert versions == [0], done.stdout
    wrong = cli("predict", str(image), "--version", "1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
