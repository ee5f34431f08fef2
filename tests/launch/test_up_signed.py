"""`mlserve up --require-signature` serves what the key signed, and goes on with it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlserve.signing import SigningKey, sign

pytestmark = pytest.mark.server


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, with the public one beside it, made as the documentation says."""
    path = tmp_path / "private.pem"
    make = ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    subprocess.run(make, check=True, capture_output=True)
    publish = ("openssl", "ec", "-in", path, "-pubout", "-out", path.with_name("public.pem"))
    subprocess.run(publish, check=True, capture_output=True)
    return path


def test_only_signed_versions_are_served(
    cli: Any, export: Any, key: Path, photo: Path, tmp_path: Path
) -> None:
    base = export(label="sorrel")
    required = f"--require-signature={tmp_path / 'public.pem'}"
    wrong = cli.up(f"--require-signature={key}")
    assert wrong.returncode == 2
    assert "it is a private key, which only signs" in wrong.stderr
    refused = cli.up(required, "--wait", "20")
    assert refused.returncode == 5
    assert "1 is not signed" in refused.stderr
    assert cli("models", "sign", "m", "--key", key).returncode == 0
    up = cli.up(required, "--processes=2")
    assert up.returncode == 0, up.stderr

    export(version=2, label="zebra")
    switched = cli("models", "use", "2", "--timeout", "20")
    assert switched.returncode == 5
    assert "2 is not signed" in switched.stderr
    assert cli("predict", photo).stdout == "sorrel\n"
    sign(base / "2", SigningKey(key))
    assert cli("models", "use", "2", "--timeout", "20").returncode == 0
    assert cli("predict", photo).stdout == "zebra\n"
    assert cli("down").returncode == 0
