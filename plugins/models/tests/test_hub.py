"""The TF-Hub path end to end: tensorflow-hub's own resolver and cache against a stand-in hub."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve.errors import ExportError
from mlserve.pipeline import Activation
from mlserve.sources import Classifier

pytestmark = [
    pytest.mark.tensorflow,
    # tensorflow-hub 0.16 leaves the response of a download to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

HANDLE = "google/imagenet/inception_v3/classification/5"
THREE_WAYS = ("--weights FILE", "--model efficientnet_lite0", "TFHUB_CACHE_DIR")


@pytest.fixture
def cache(home: Path) -> Path:
    return home / "cache" / "tfhub"


@pytest.fixture
def fails(open_model: Callable[..., Classifier], hub: Any, cache: Path) -> Callable[[str], None]:
    """Opens the default model, which must fail with that cause and leave nothing in the cache."""

    def check(cause: str) -> None:
        with pytest.raises(ExportError, match=cause) as caught:
            open_model("inception_v3")
        assert hub.url in caught.value.message
        assert all(way in str(caught.value.hint) for way in THREE_WAYS)
        assert not [entry.name for entry in cache.glob("*") if entry.suffix != ".txt"]

    return check


def test_the_default_model_is_fetched_once(
    open_model: Callable[..., Classifier],
    hub: Any,
    module_tar: bytes,
    reports: list[tuple[str, int, int | None]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.serve(module_tar)
    first = open_model("inception_v3")
    assert hub.requests == [f"/{HANDLE}?tf-hub-format=compressed"]
    assert reports[0] == ("downloading from TF-Hub", 0, None)
    assert reports[-1][1] == reports[-1][2] > len(module_tar)
    second = open_model("inception_v3")
    assert len(hub.requests) == 1
    assert first.weights_digest == second.weights_digest
    assert capfd.readouterr().out == ""

    images = np.random.default_rng(0).random((2, 299, 299, 3), dtype=np.float32)
    np.testing.assert_array_equal(second.forward(images), images.reshape(2, -1)[:, :1001] / 2)


def test_what_is_known_of_the_module(
    open_model: Callable[..., Classifier], hub: Any, module_tar: bytes
) -> None:
    hub.serve(module_tar)
    before = dict(os.environ)
    model = open_model("inception_v3")
    assert dict(os.environ) == before
    assert model.source == f"TF-Hub {hub.url}/{HANDLE}"
    assert model.pipeline.activation is Activation.SOFTMAX
    assert (model.pipeline.classes, model.pipeline.class_offset) == (1001, 1)
    assert (model.pipeline.height, model.pipeline.width) == (299, 299)
    assert (model.pipeline.scale, model.pipeline.offset) == (1 / 255, 0)
    assert len(model.labels) == 1000
    assert model.pipeline.full_labels(model.labels)[340] == "sorrel"
    assert not model.has_random_weights


def test_a_cache_of_the_users_own_is_used(
    open_model: Callable[..., Classifier],
    hub: Any,
    module_tar: bytes,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(home / "shared"))
    hub.serve(module_tar)
    open_model("inception_v3")
    assert [entry.name for entry in home.iterdir()] == ["shared"]
    assert list((home / "shared").glob("*/saved_model.pb"))


def test_a_module_that_is_not_there(fails: Callable[[str], None], hub: Any) -> None:
    hub.serve(b"gone", status=404)
    fails(r"TF-Hub has no module .*HTTP 404 Not Found")


def test_a_hub_that_hangs_up(fails: Callable[[str], None], hub: Any) -> None:
    hub.answer = lambda handler: handler.connection.close()
    fails(r"\(.+\)")


def test_a_download_that_is_cut(fails: Callable[[str], None], hub: Any, module_tar: bytes) -> None:
    hub.serve(module_tar[: len(module_tar) // 2], announced=len(module_tar))
    fails("not appear to be a valid module|unexpected end of data")


def test_a_download_that_is_cut_between_two_files(
    fails: Callable[[str], None], hub: Any, save_module: Callable[..., Path], tmp_path: Path
) -> None:
    """The stream then looks whole to tarfile, so that only loading it shows what is missing."""
    folder = save_module(tmp_path / "m", lambda images: images[:, 0, 0], [None, 299, 299, 3])
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.add(folder / "fingerprint.pb", arcname="fingerprint.pb")
        archive.add(folder / "saved_model.pb", arcname="saved_model.pb")
        end = archive.offset
    hub.serve(gzip.compress(whole.getvalue()[:end]))
    fails("cannot be loaded")


def test_a_download_that_is_no_tar_file(fails: Callable[[str], None], hub: Any) -> None:
    hub.serve(b"<html>log in to this network first</html>" * 100)
    fails("does not appear to be a valid module")


def test_a_tar_file_that_is_no_module(
    fails: Callable[[str], None], hub: Any, tar_of: Callable[[Path], bytes], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("no module")
    hub.serve(tar_of(tmp_path / "other"))
    fails("cannot be loaded")


def test_a_module_of_another_interface(
    fails: Callable[[str], None],
    hub: Any,
    tar_of: Callable[[Path], bytes],
    save_module: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = save_module(tmp_path / "m", lambda images: images[:, 0, 0] - 5, [None, 299, 299, 3])
    hub.serve(tar_of(folder))
    fails("gives 3 classes, not 1001")


@pytest.mark.usefixtures("tf")
def test_a_hub_that_says_nothing_is_given_up(hub: Any, cache: Path) -> None:
    from mlserve_models.framework import framework_imports

    with framework_imports():
        from mlserve_models.hub_cache import CachedModule
        from mlserve_models.hub_download import fetch
    hub.stay_silent()
    module = CachedModule.from_handle(HANDLE)
    with pytest.raises(
        ExportError, match=r"TF-Hub cannot be reached .*silent for 0\.5 s"
    ) as caught:
        fetch(module, lambda *_: None, stall_seconds=0.5)
    assert all(way in str(caught.value.hint) for way in THREE_WAYS)
    assert list(cache.iterdir()) == []


def test_a_damaged_module_of_the_users_cache_stays_and_is_named(
    open_model: Callable[..., Classifier], hub: Any
) -> None:
    from mlserve_models.hub_cache import CachedModule

    folder = CachedModule.from_handle(HANDLE).folder
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ExportError, match="cannot be loaded") as caught:
        open_model("inception_v3")
    assert f"remove {folder}" in str(caught.value.hint)
    assert folder.exists()
    assert hub.requests == []


@pytest.mark.parametrize("name", ["../../slipped", "/slipped", "link/slipped"])
def test_a_module_that_would_write_outside_its_folder_leaves_nothing_there(
    open_model: Callable[..., Classifier], hub: Any, home: Path, name: str
) -> None:
    """tensorflow-hub unpacks it, past links and paths that lead out of its folder or not at all."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../.."
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    hub.serve(made.getvalue())

    with pytest.raises(ExportError, match="TF-Hub has no module"):
        open_model("inception_v3")

    assert not list(home.parent.rglob("slipped"))
    assert not Path("/slipped").exists()
