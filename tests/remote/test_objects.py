"""Amazon S3 through s3fs against moto's server; Google Cloud Storage through gcsfs's emulator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest

from mlserve.digests import path_digest
from mlserve.errors import AccessDenied, ExportError, NotFound, PluginError
from mlserve.remote import objects
from mlserve.remote.upstream import Unreachable
from tests.harness.ports import free_ports
from tests.remote.conftest import Get

pytestmark = pytest.mark.server

DATA = bytes(range(256)) * 40
HEX = sha256(DATA).hexdigest()
CREDENTIALS = {
    "aws_access_key_id": "id",
    "aws_secret_access_key": "secret-key",
    "region_name": "us-east-1",
}
Put = Callable[[str, bytes], None]


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of S3, as boto3 has it, and a server."""
    import boto3
    from moto.server import ThreadedMotoServer

    site = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    site.start()
    host, port = site.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **CREDENTIALS)
    client.create_bucket(Bucket="bucket")
    yield client
    site.stop()


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[str]:
    from gcp_storage_emulator.server import create_server

    (port,) = free_ports(1)
    site = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    site.start()
    yield f"http://127.0.0.1:{port}"
    site.stop()


@pytest.fixture
def put_s3(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts an object into the bucket `bucket` of S3; mlserve has its address and credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.meta.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return lambda key, data: s3.put_object(Bucket="bucket", Key=key, Body=data)


@pytest.fixture
def put_gcs(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts an object into the bucket `bucket` of Google Cloud Storage."""
    from gcsfs.core import GCSFileSystem

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    files = GCSFileSystem(token="anon", skip_instance_cache=True)
    return lambda key, data: files.pipe_file(f"bucket/{key}", data)


@pytest.fixture(params=["s3", "gs"])
def put(request: pytest.FixtureRequest) -> Put:
    """Puts an object at `put.scheme`."""
    found: Put = request.getfixturevalue({"s3": "put_s3", "gs": "put_gcs"}[request.param])
    return found


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    """The address of the bucket that `put` writes to."""
    return f"{request.node.callspec.params['put']}://bucket"


def test_an_object_is_fetched_once_and_again_when_it_changes(
    put: Put, root: str, get: Get, arrived: list[str]
) -> None:
    put("models/m.onnx", DATA)
    first = get(f"{root}/models/m.onnx")
    assert first.copy.path.name == "m.onnx"
    assert first.copy.digest == HEX
    assert first.copy.resolved == f"{root}/models/m.onnx"
    assert first.copy.revision
    get(f"{root}/models/m.onnx")
    assert arrived == [HEX]
    put("models/m.onnx", b"new")
    assert get(f"{root}/models/m.onnx").copy.path.read_bytes() == b"new"


def test_a_prefix_is_a_folder(put: Put, root: str, get: Get, arrived: list[str]) -> None:
    put("saved/1/saved_model.pb", b"graph")
    put("saved/1/variables/variables.index", b"index")
    put("saved/10/saved_model.pb", b"of another version")
    found = get(f"{root}/saved/1/")
    names = {p.relative_to(found.copy.path).as_posix() for p in found.copy.path.rglob("*.*")}
    assert found.copy.path.name == "1"
    assert names == {"saved_model.pb", "variables/variables.index"}
    assert path_digest(found.copy.path) == f"sha256:{found.copy.digest}"
    put("saved/1/variables/variables.index", b"INDEX")
    get(f"{root}/saved/1")
    assert len(arrived) == 2


def test_what_is_not_there_and_what_is_pinned(put_gcs: Put, get: Get) -> None:
    with pytest.raises(NotFound, match=r"gs://bucket/none\.onnx: there is no such object"):
        get("gs://bucket/none.onnx")
    put_gcs("empty/", b"")
    with pytest.raises(NotFound, match="there is no such object, nor anything below it"):
        get("gs://bucket/empty")
    put_gcs("m.onnx", DATA)
    with pytest.raises(ExportError, match=f"has the digest sha256:{HEX}, not sha256:0000"):
        get("gs://bucket/m.onnx", "0" * 64)


def test_an_object_arrives_in_pieces_and_goes_on_after_a_break(
    put_gcs: Put, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_CHUNK", 4000)
    put_gcs("pieces.onnx", DATA)
    from fsspec.spec import AbstractBufferedFile

    whole, begun = AbstractBufferedFile.read, []

    def breaking(file: Any, length: int = -1) -> bytes:
        begun.append(file.tell())
        if len(begun) == 2:
            raise ConnectionResetError("the connection broke off")
        data: bytes = whole(file, length)
        return data

    monkeypatch.setattr(AbstractBufferedFile, "read", breaking)
    with pytest.raises(Unreachable, match="the connection broke off"):
        get("gs://bucket/pieces.onnx")
    assert get("gs://bucket/pieces.onnx").copy.digest == HEX
    assert begun == [0, 4000, 4000, 8000]


def test_a_key_that_leads_out_of_the_folder(put_s3: Put, get: Get) -> None:
    put_s3("bad/../../../m.onnx", DATA)
    with pytest.raises(ExportError, match="which would lie outside its folder"):
        get("s3://bucket/bad")


def test_a_version_of_an_object(put_s3: Put, s3: Any, get: Get) -> None:
    versioned = {"Status": "Enabled"}
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration=versioned)
    old = s3.put_object(Bucket="versions", Key="m.onnx", Body=b"old")["VersionId"]
    s3.put_object(Bucket="versions", Key="m.onnx", Body=b"new")
    found = get(f"s3://versions/m.onnx?versionId={old}").copy
    assert (found.path.name, found.path.read_bytes()) == ("m.onnx", b"old")
    assert found.revision == f"version {old}"


def test_s3_without_credentials_is_asked_as_anybody(
    put_s3: Put, s3: Any, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket="bucket", Key="public.onnx", Body=DATA, ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert get("s3://bucket/public.onnx").copy.digest == HEX


@pytest.mark.parametrize(
    ("variable", "url"),
    [("AWS_ENDPOINT_URL", "s3://bucket/m.onnx"), ("STORAGE_EMULATOR_HOST", "gs://bucket/m.onnx")],
)
def test_nobody_there(variable: str, url: str, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(objects, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    with pytest.raises(Unreachable, match=f"{url} cannot be fetched") as raised:
        get(url)
    assert "secret-key" not in str(raised.value)


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (404, NotFound)])
def test_refusals_of_s3(
    site: Any, get: Get, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    for path in ("/bucket/m.onnx", "/bucket"):
        site.put(path, status=status)
    with pytest.raises(kind):
        get("s3://bucket/m.onnx")


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("s3://b/k", "s3fs", "s3"),
        ("gs://b/k", "gcsfs", "gcs"),
        ("hf://o/n/f", "huggingface_hub", "hf"),
    ],
)
def test_a_library_that_is_not_installed(
    url: str, library: str, extra: str, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PluginError) as raised:
        get(url)
    assert raised.value.message == f"{url} needs {library}, which is not installed"
    assert f"[{extra}]" in str(raised.value.hint)
    assert str(raised.value.hint).startswith("pip install")
