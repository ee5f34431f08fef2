"""`mlserve certify` asks the golden questions, of versions and of servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.artifact import MANIFEST_NAME, Manifest
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase, write_golden
from mlserve.sources import Fact, How
from mlserve.tensors import DType, Signature, TensorSpec
from tests.harness.echo import LABELS, SIGNATURE, manifest

pytestmark = pytest.mark.server

RANKING = Signature(
    "ranking",
    (TensorSpec("image", DType.BYTES, (None,)),),
    (
        TensorSpec("labels", DType.BYTES, (None, 2)),
        TensorSpec("scores", DType.FLOAT32, (None, 2)),
        TensorSpec("indices", DType.INT32, (None, 2)),
    ),
)
SCORES = np.array([[0.5, 0.25]], dtype=np.float32)


@pytest.fixture
def certified(export: Any) -> Any:
    """`certified(version, scores, model=..., ...)` exports a model with two golden images.

    The echo backend gives the scores 0.5 and 0.25, and the label that its file names.
    """

    def write(version: int = 1, scores: Any = SCORES, model: str = "m", **config: Any) -> Path:
        folder: Path = export(model, version, classes=2, **config) / str(version)
        label = np.array([LABELS[int(scores.argmax())].encode()], dtype=object)
        expected = {"scores": scores, "label": label}
        cases = [
            GoldenCase(
                f"photo {n}",
                "ranking",
                {"image": np.array([f"image {n}".encode()], dtype=object)},
                expected,
                expected,
                0.25,
            )
            for n in range(2)
        ]
        write_golden(cases, folder)
        certificate = Certificate("a framework 1.0", 2, 1e-4, 1e-6, 2, 0.25, "a CPU")
        old = manifest(model)
        (folder / MANIFEST_NAME).unlink()
        signed = replace(old, certificate=certificate, signatures=(SIGNATURE, RANKING))
        signed.write(folder, LABELS)
        return folder

    return write


def test_what_holds_is_said_to_and_what_does_not_is_named(
    cli: Any, certified: Any, tmp_path: Path
) -> None:
    folder = certified()
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"an image")
    done = cli("certify", photo)
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.startswith("echo/m@1")
    assert first.endswith(": holds")
    assert lines == [
        "  identical on 2 of 2 golden inputs, against a framework 1.0",
        "  no number differs from the reference's",
    ]
    certified(2, SCORES + np.float32(5e-5))
    done = cli("certify", photo)
    assert done.returncode == 0
    assert " ".join(done.stdout.split()).endswith(
        "identical on 2 of 2 golden inputs, against a framework 1.0 largest score change 5e-5; "
        "0.0001 is allowed a label can change only where the two best are closer than 0.0001: "
        "0 of your 1 image"
    )
    certified(3, np.array([[0.5, 0.28]], dtype=np.float32), label="donkey")
    report = tmp_path / "report.html"
    wrong = cli("certify", "--output", "json", "--report", report)
    assert wrong.returncode == 8
    found = wrong.json()
    [version] = found["versions"]
    assert (found["holds"], version["outcome"], version["name"]) == (False, "drifted", "echo/m@3")
    assert version["golden"]["same"] == 0
    assert version["golden"]["largest_difference"] == pytest.approx(0.03, rel=1e-4)
    assert version["golden"]["label_bound"] == pytest.approx(0.06, rel=1e-4)
    assert version["golden"]["problems"][0]["name"] == "photo 0"
    assert "label is 'donkey', not 'sorrel'" in version["golden"]["problems"][0]["what"]
    page = report.read_text()
    assert "does not hold: 1 version, 1 drifted" in page
    assert "identical on 0 of 2 golden inputs, against a framework 1.0" in page
    assert page.count("<svg") == 2  # one plot in two widths
    assert page.count("<circle") == 4
    assert "label is &#x27;donkey&#x27;, not &#x27;sorrel&#x27;" in page
    assert f"mlserve certify --output json --report {report}" in page
    (folder.parent / "3" / "golden" / "tensors.npz").write_bytes(b"")
    damaged = cli("certify", "--version", "3")
    assert damaged.returncode == 8
    assert damaged.stdout.startswith("echo/m@3: failed\n")
    assert "tensors.npz" in damaged.stdout


def test_a_server_is_held_to_the_certificate_of_a_version(
    cli: Any, certified: Any, start_echo: Any
) -> None:
    certified(model="inception_v3")
    right, wrong = start_echo(classes=2), start_echo(classes=2, label="ox")
    for endpoint in (right.grpc, f"http://{right.rest}"):
        done = cli("certify", "--endpoint", endpoint)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "identical on 2 of 2 golden inputs" in done.stdout
        assert f"{endpoint}, version 1 (" in done.stdout
    certified(7, model="inception_v3")
    other = cli("certify", "--endpoint", right.grpc)
    assert other.returncode == 0, other.stderr
    assert f"{right.grpc} has no version 7 (there: 1)" in other.stderr
    assert other.stdout.startswith(f"{right.grpc} (")
    done = cli("certify", "--endpoint", wrong.grpc)
    assert done.returncode == 8
    assert "photo 0: label is 'ox', not 'sorrel'" in done.stdout
    gone = cli("certify", "--endpoint", "127.0.0.1:1", "--timeout", "1")
    assert gone.returncode == 8
    assert gone.stdout.startswith("127.0.0.1:1: failed\n")


def test_why_there_is_no_certificate_is_told(cli: Any, export: Any) -> None:
    folder = export() / "1"
    known = Manifest.read(folder)
    assert known is not None
    (folder / MANIFEST_NAME).unlink()
    fact = Fact(How.ASSUMED, "none: the model refuses made-up inputs")
    replace(known, facts={"certificate": fact}).write(folder, LABELS)
    done = cli("certify")
    assert done.returncode == 2
    assert "it has no certificate: the model refuses made-up inputs" in done.stdout
