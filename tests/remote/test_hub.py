"""The Hugging Face hub, through the real huggingface_hub, against a server of its API."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from mlserve.errors import AccessDenied, ExportError, NotFound, UsageError
from mlserve.remote.upstream import Unreachable
from tests.harness.file_server import FileServer
from tests.harness.ports import free_ports
from tests.remote.conftest import Get

DATA = bytes(range(256)) * 40
HEX = sha256(DATA).hexdigest()
FIRST, SECOND = "1" * 40, "2" * 40


class Hub:
    """The part of the hub's API that a download uses, for the model `org/tiny`."""

    def __init__(self, site: FileServer) -> None:
        self.site = site

    def commit(self, commit: str, files: dict[str, bytes], names: list[str] | None = None) -> None:
        """Make this the newest commit of `main`; `names` is what the hub says that it has."""
        about = {
            "id": "org/tiny",
            "sha": commit,
            "siblings": [{"rfilename": name} for name in names or files],
        }
        for revision in ("main", commit):
            path = f"/api/models/org/tiny/revision/{revision}"
            self.site.put(path, json.dumps(about).encode())
        self.site.put("/api/models/org/tiny", json.dumps(about).encode())
        for name, data in files.items():
            etag = f'"{sha256(data).hexdigest()}"'
            path = f"/org/tiny/resolve/{commit}/{name}"
            self.site.put(path, data, etag=etag, headers={"X-Repo-Commit": commit})


@pytest.fixture
def hub(site: FileServer, monkeypatch: pytest.MonkeyPatch) -> Hub:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", site.url)  # HF_ENDPOINT is read at its import
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        site.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    return Hub(site)


def test_a_file_is_fetched_once_for_each_commit(hub: Hub, get: Get, arrived: list[str]) -> None:
    hub.commit(FIRST, {"onnx/m.onnx": DATA, "config.json": b"{}"})
    found = get("hf://org/tiny/onnx/m.onnx")
    assert found.copy.path.name == "m.onnx"
    assert found.copy.digest == HEX
    assert found.copy.resolved == f"hf://org/tiny@{FIRST}/onnx/m.onnx"
    assert not any("config" in path for path, _ in hub.site.requests)
    get("hf://org/tiny/onnx/m.onnx")
    assert arrived == [HEX]
    hub.commit(SECOND, {"onnx/m.onnx": b"new"})
    assert get("hf://org/tiny/onnx/m.onnx").copy.path.read_bytes() == b"new"
    assert get(f"hf://org/tiny@{FIRST}/onnx/m.onnx").copy.digest == HEX


def test_a_folder_and_everything(hub: Hub, get: Get) -> None:
    hub.commit(FIRST, {"saved/saved_model.pb": DATA, "saved/variables/v.index": b"v", "x.md": b""})
    folder = get("hf://org/tiny/saved").copy.path
    assert folder.name == "saved"
    assert _names(folder) == ["saved_model.pb", "variables/v.index"]
    everything = get("hf://org/tiny").copy.path
    assert everything.name == "tiny"
    assert _names(everything) == ["saved/saved_model.pb", "saved/variables/v.index", "x.md"]


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_download_that_breaks_off(hub: Hub, get: Get) -> None:
    hub.commit(FIRST, {"m.onnx": DATA})
    path = f"/org/tiny/resolve/{FIRST}/m.onnx"
    hub.site.files[path].breaks = [1000]
    assert get("hf://org/tiny/m.onnx", HEX).copy.digest == HEX
    assert hub.site.files[path].breaks == []


def test_names_of_the_hub_cannot_leave_the_folder(hub: Hub, get: Get, tmp_path: Path) -> None:
    hub.commit(FIRST, {"a/m.onnx": DATA}, names=["a/m.onnx", "a/../../../evil"])
    with pytest.raises(ExportError, match="which would lie outside its folder"):
        get("hf://org/tiny/a")
    assert not list(tmp_path.rglob("evil"))


def test_what_is_not_there(hub: Hub, get: Get) -> None:
    hub.commit(FIRST, {"m.onnx": DATA})
    with pytest.raises(NotFound, match=r"has no other\.onnx") as raised:
        get("hf://org/tiny/other.onnx")
    assert raised.value.hint == "it has m.onnx"
    missing = {"X-Error-Code": "RevisionNotFound"}
    hub.site.put("/api/models/org/tiny/revision/old", status=404, headers=missing)
    with pytest.raises(NotFound, match="it has no such revision"):
        get("hf://org/tiny@old/m.onnx")
    missing = {"X-Error-Code": "RepoNotFound"}
    hub.site.put("/api/models/org/none", status=401, headers=missing)
    with pytest.raises(NotFound, match="the hub shows no such model"):
        get("hf://org/none/m.onnx")
    hub.site.put("/api/models/org/gated", status=403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(AccessDenied, match="its owner gives access on request"):
        get("hf://org/gated/m.onnx")
    with pytest.raises(UsageError, match="is not a file of the hub"):
        get("hf://org")


def test_a_hub_that_is_too_busy_is_asked_again_later(
    hub: Hub, get: Get, arrived: list[str]
) -> None:
    hub.commit(FIRST, {"m.onnx": DATA})
    get("hf://org/tiny/m.onnx")
    hub.site.put("/api/models/org/tiny", status=429)
    kept = get("hf://org/tiny/m.onnx")
    assert kept.copy.digest == HEX
    assert arrived == [HEX]
    assert "429" in kept.unchecked


def test_no_hub_and_a_token_that_is_not_told(
    hub: Hub, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.commit(FIRST, {"m.onnx": DATA})
    get("hf://org/tiny/m.onnx")
    assert hub.site.requests[0][1]["authorization"] == "Bearer hf_secret"
    (port,) = free_ports(1)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    found = get("hf://org/tiny/m.onnx")
    assert found.copy.digest == HEX
    assert "hf://org/tiny/m.onnx cannot be fetched" in found.unchecked
    with pytest.raises(Unreachable) as raised:
        get("hf://org/tiny/another.onnx")
    assert "hf_secret" not in f"{raised.value}{raised.value.hint}{found.to_json()}"
