"""A server of `up` behind a token and TLS is asked without a word about either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from mlserve.images import tiny_png

pytestmark = pytest.mark.server


@pytest.fixture
def guarded(tmp_path: Path) -> list[str]:
    """The options of a server with a token, and certificates on both sides.

    Its own is for the name that the machine has elsewhere.
    """
    authority = trustme.CA()
    issued = authority.issue_cert("line7.example")
    cert, key, ca, token = (tmp_path / name for name in ("cert", "key", "ca", "token"))
    cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    token.write_text("s3cret\n")
    token.chmod(0o600)
    tls = [f"--tls-cert={cert}", f"--tls-key={key}", f"--tls-client-ca={ca}"]
    return [f"--token-file={token}", *tls]


def test_predict_finds_its_way_in(
    cli: Any, export: Any, guarded: list[str], tmp_path: Path
) -> None:
    export(label="sorrel")
    photo = tmp_path / "photo.png"
    photo.write_bytes(tiny_png())
    up = cli.up(*guarded)
    assert up.returncode == 0, up.stderr
    assert "grpc grpcs://127.0.0.1:" in up.stdout
    assert "rest https://127.0.0.1:" in up.stdout

    for protocol in ("grpc", "rest"):
        asked = cli("predict", str(photo), "--protocol", protocol, "--timeout", "20")
        assert (asked.stdout, asked.stderr) == ("sorrel\n", "")
    assert cli("status").returncode == 0
    assert cli("down").returncode == 0


def test_a_certificate_that_the_server_refuses_is_what_the_hint_is_about(
    cli: Any, export: Any, guarded: list[str], tmp_path: Path
) -> None:
    export()
    other = tmp_path / "other"
    trustme.CA().cert_pem.write_to_path(str(other))

    up = cli.up(*guarded[:-1], f"--tls-client-ca={other}", "--wait", "20")

    assert up.returncode == 2, up.stderr
    assert "hint: the server requires a client certificate of this command too: " in up.stderr
    assert "MLSERVE_TLS_CERT and MLSERVE_TLS_KEY" in up.stderr
