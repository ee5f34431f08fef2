"""What curl sends of an image, `--data-binary @` and `-F image=@`, is answered as JSON would be."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.artifact import Artifact
from mlserve.testing.images import plain
from mlserve.testing.processes import ServerProcess, launched

pytestmark = pytest.mark.server

JPEG = b"\xff\xd8\xff a photo"
FORM = "application/x-www-form-urlencoded"
PATHS = pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    base_path = tmp_path_factory.mktemp("models") / "m"
    (base_path / "1").mkdir(parents=True)
    (base_path / "1" / "echo.json").write_text("{}")
    limits = ("--max-batch-length", "3", "--max-request-bytes", "200000", "--max-pixels", "1000")
    with launched("echo", Artifact.open(base_path, "m", 1), *limits) as server:
        server.wait_ready()
        yield server


def _labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    data = answer.json()
    found = data["predictions"] if "predictions" in data else data["outputs"][0]["data"]
    return [str(label) for label in found]


def _error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


@PATHS
@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "IMAGE/JPEG; q=1", FORM, None])
@pytest.mark.parametrize("image", [JPEG, plain("green", "PNG", (8, 8))], ids=["jpeg", "png"])
def test_an_image_is_a_body(
    server: ServerProcess, path: str, kind: str | None, image: bytes
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = httpx.post(f"http://{server.rest}{path}", content=image, headers=headers)

    assert _labels(answer) == ["sorrel"]


@PATHS
def test_a_form_with_one_file_or_several(server: ServerProcess, path: str) -> None:
    url = f"http://{server.rest}{path}"

    assert _labels(httpx.post(url, files={"image": ("a.jpg", JPEG)})) == ["sorrel"]
    three = [("image", ("a.jpg", JPEG)), ("b", ("b.jpg", JPEG)), ("c", ("c.jpg", JPEG))]
    assert _labels(httpx.post(url, files=three)) == ["sorrel"] * 3


@PATHS
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("how", [("--data-binary", "@{}"), ("-F", "image=@{}"), ("-T", "{}")])
def test_as_curl_sends_it(
    server: ServerProcess, path: str, how: tuple[str, str], photo_file: Path
) -> None:
    option, value = how
    url = f"http://{server.rest}{path}"
    argv = ["curl", "-sS", "-X", "POST", option, value.format(photo_file), url]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert "sorrel" in done.stdout


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    path = tmp_path / "horse.jpg"
    path.write_bytes(JPEG)
    return path


@PATHS
def test_a_form_may_name_the_signature(server: ServerProcess, path: str) -> None:
    url, files = f"http://{server.rest}{path}", {"image": ("a.jpg", JPEG)}
    answer = httpx.post(url, files=files, data={"signature_name": "top_k"})

    assert answer.status_code == 200, answer.text
    assert "scores" in answer.text
    unknown = httpx.post(url, files=files, data={"signature_name": "nope"})
    assert '"nope" not found' in _error(unknown, 400 if path.startswith("/v1") else 404)


@PATHS
def test_a_compressed_image(server: ServerProcess, path: str) -> None:
    headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
    answer = httpx.post(f"http://{server.rest}{path}", content=gzip.compress(JPEG), headers=headers)

    assert _labels(answer) == ["sorrel"]


@PATHS
def test_what_is_no_image_is_refused_as_ever(server: ServerProcess, path: str) -> None:
    url = f"http://{server.rest}{path}"
    bad = httpx.post(url, content=b"bad", headers={"Content-Type": "image/jpeg"})
    assert "not a JPEG or PNG file" in _error(bad, 415)
    second = httpx.post(url, files=[("a", ("a.jpg", JPEG)), ("b", ("b.jpg", b"bad"))])
    assert "image 1 of 2" in _error(second, 415)


@PATHS
def test_the_limits_hold(server: ServerProcess, path: str) -> None:
    url = f"http://{server.rest}{path}"
    large = httpx.post(url, content=JPEG + bytes(200_000), headers={"Content-Type": "image/jpeg"})
    assert "--max-request-bytes" in _error(large, 413)
    many = httpx.post(url, files=[("image", (f"{n}.jpg", JPEG)) for n in range(4)])
    assert "--max-batch-length" in _error(many, 413)
    wide = httpx.post(url, content=plain("green", size=(40, 40)))
    assert "pixels" in _error(wide, 413)


@PATHS
@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("multipart/form-data", b"x", "names no boundary"),
        ("multipart/form-data; boundary=b", b"x", "is not multipart/form-data"),
        ("multipart/form-data; boundary=b", b"--b\r\n", "is not multipart/form-data"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "the form has no file"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n@horse\r\n--b--\r\n',
            "the form's field 'image' is not a file",
        ),
    ],
    ids=["no boundary", "no part", "cut short", "empty", "a field"],
)
def test_a_form_that_is_not_right_is_told_why(
    server: ServerProcess, path: str, kind: str, body: bytes, said: str
) -> None:
    headers = {"Content-Type": kind}
    answer = httpx.post(f"http://{server.rest}{path}", content=body, headers=headers)

    assert said in _error(answer, 400)


def test_a_model_that_takes_something_else_says_so(server: ServerProcess) -> None:
    url = f"http://{server.rest}/v1/models/m:predict"
    data, files = {"signature_name": "two"}, {"image": ("a.jpg", JPEG)}
    said = _error(httpx.post(url, files=files, data=data), 400)

    assert "only a signature with one input of bytes takes" in said
    assert "a: float32[?]" in said


def test_json_is_json_whatever_its_type_says(server: ServerProcess) -> None:
    for kind in ("application/json", FORM, "text/plain"):
        answer = httpx.post(
            f"http://{server.rest}/v1/models/m:predict",
            content=b'{"instances": [{"b64": "/9j/"}]}',
            headers={"Content-Type": kind},
        )
        assert _labels(answer) == ["sorrel"]


def test_the_openapi_document_names_the_types(server: ServerProcess) -> None:
    document: Any = httpx.get(f"http://{server.rest}/openapi.json").json()
    for path in ("/v1/models/{model}:predict", "/v2/models/{model}/infer"):
        kinds = document["paths"][path]["post"]["requestBody"]["content"]
        assert {"application/json", "image/*", "multipart/form-data"} <= set(kinds)
