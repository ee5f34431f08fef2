"""The cache: what is taken from it, what is fetched again, and what is never kept."""

from __future__ import annotations

import json
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from mlserve import paths
from mlserve.errors import ExportError, NotFound, UsageError
from mlserve.export import no_progress
from mlserve.remote.resolving import addresses_named, localized
from mlserve.sources import ModelRequest
from tests.harness.file_server import FileServer
from tests.remote.conftest import Get

OLD, NEW = b"old" * 1000, b"new" * 1000
HEX = sha256(OLD).hexdigest()


def copies() -> set[str]:
    """Return the digests of the copies in the cache."""
    return {path.parent.name for path in paths.cache_dir().glob("remote/*/*/record.json")}


def test_an_unchanged_file_is_not_fetched_again(
    site: FileServer, get: Get, arrived: list[str]
) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    first, second = get(url), get(url)
    assert arrived == [HEX]
    assert site.last["if-none-match"] == '"1"'
    assert second.copy == first.copy


def test_one_with_a_date_only_is_asked_for_by_it(
    site: FileServer, get: Get, arrived: list[str]
) -> None:
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    url = site.put("/m.onnx", OLD, headers={"Last-Modified": date})
    get(url)
    site.files["/m.onnx"].status = 304
    get(url)
    assert arrived == [HEX]
    assert site.last["if-modified-since"] == date


def test_one_whose_server_tells_no_revision_is_fetched_each_time(
    site: FileServer, get: Get, arrived: list[str]
) -> None:
    url = site.put("/m.onnx", OLD)
    get(url)
    get(url)
    assert arrived == [HEX, HEX]
    site.put("/m.onnx", NEW)
    assert get(url).copy.path.read_bytes() == NEW


def test_a_changed_one_is_fetched_and_the_one_before_is_kept(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    before = get(url).copy
    digests = [before.digest]
    for number in (2, 3):
        site.put("/m.onnx", NEW * number, etag=f'"{number}"')
        digests.append(get(url).copy.digest)
        assert copies() == set(digests[-2:])
    assert not before.folder.exists()


def test_a_pinned_copy_is_taken_without_asking(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    get(url)
    site.put("/m.onnx", NEW, etag='"2"')
    get(url)
    site.requests.clear()
    found = get(f"{url}#sha256={HEX}")
    assert found.copy.path.read_bytes() == OLD
    assert found.unchecked == "the copy has the given digest"
    assert not site.requests


def test_a_wrong_digest_names_both_and_keeps_nothing(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", NEW, etag='"1"')
    for _ in range(2):
        with pytest.raises(ExportError) as raised:
            get(url, HEX)
        assert raised.value.message == (
            f"{url} has the digest sha256:{sha256(NEW).hexdigest()}, not sha256:{HEX} as given"
        )
        assert [path.name for path in paths.cache_dir().rglob("*") if path.is_file()] == ["lock"]


def test_a_copy_of_another_digest_is_no_way_around(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", NEW, etag='"1"')
    get(url)
    with pytest.raises(ExportError, match=f"not sha256:{HEX} as given"):
        get(url, HEX)
    site.files["/m.onnx"].status = 503
    with pytest.raises(ExportError, match="cannot be fetched: HTTP 503"):
        get(url, HEX)
    with pytest.raises(ExportError) as raised:
        get(url, HEX, offline=True)
    assert raised.value.message == (
        f"{url} with the digest sha256:{HEX} is not in the cache, and --offline fetches nothing"
    )


def test_without_a_network_the_copy_is_taken_and_it_is_said(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    get(url)
    site.files["/m.onnx"].status = 503
    found = get(url)
    assert found.copy.path.read_bytes() == OLD
    assert found.unchecked == f"{url} cannot be fetched: HTTP 503 Service Unavailable"


def test_offline_asks_nobody(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    with pytest.raises(ExportError, match="is not in the cache, and --offline fetches nothing"):
        get(url, offline=True)
    assert not site.requests
    get(url)
    site.requests.clear()
    assert get(url, offline=True).unchecked == "--offline"
    assert not site.requests


def test_what_is_gone_is_an_error_that_names_the_copy(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    copy = get(url).copy
    del site.files["/m.onnx"]
    with pytest.raises(NotFound) as raised:
        get(url)
    assert f"a copy of {copy.fetched} is in the cache" in str(raised.value.hint)
    assert get(url, offline=True).copy == copy


@pytest.mark.parametrize("damage", ["content", "record", "current"])
def test_a_damaged_copy_is_fetched_again(
    site: FileServer, get: Get, damage: str, arrived: list[str]
) -> None:
    url = site.put("/m.onnx", OLD, etag='"1"')
    copy = get(url).copy
    target = {
        "content": copy.path,
        "record": copy.folder / "record.json",
        "current": copy.folder.parent / "current",
    }[damage]
    target.write_bytes(target.read_bytes()[:-3] + b"???")
    found = get(url)
    assert arrived == [HEX, HEX]
    assert found.copy.path.read_bytes() == OLD


def test_a_copy_says_where_it_is_from(site: FileServer, get: Get) -> None:
    copy = get(site.put("/m.onnx", OLD, etag='"1"')).copy
    record = json.loads((copy.folder / "record.json").read_text())
    assert record == {
        "url": copy.url,
        "resolved": copy.url,
        "revision": 'ETag "1"',
        "digest": HEX,
        "fetched": copy.fetched,
    }


def test_two_at_once_fetch_once(site: FileServer, get: Get, arrived: list[str]) -> None:
    url = site.put("/m.onnx", OLD * 3000, etag='"1"')
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(arrived) == 1
    assert len({each.copy for each in found}) == 1


def test_a_full_disk_is_named(site: FileServer, get: Get, home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where a folder belongs")
    with pytest.raises(ExportError, match="cannot be kept in the cache"):
        get(site.put("/m.onnx", OLD))


def test_a_digest_holds_for_a_local_file_too(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(OLD)
    request = ModelRequest("m", weights=str(path), sha256=HEX)
    assert localized(request, no_progress) == (request, {})
    path.write_bytes(NEW)
    with pytest.raises(ExportError, match=f"--weights {path} has the digest .* not sha256:{HEX}"):
        localized(request, no_progress)
    with pytest.raises(UsageError, match="--sha256 is the digest of your own weights"):
        localized(ModelRequest("m", sha256=HEX), no_progress)


def test_errors_name_the_address_in_place_of_the_copy(site: FileServer, get: Get) -> None:
    url = site.put("/m.onnx", OLD)
    found = get(url)
    path = found.copy.path
    with pytest.raises(NotFound) as raised, addresses_named({"weights": found}):
        raise NotFound(f"{path} has no inputs", hint=f"look into {path}")
    assert (str(raised.value), raised.value.hint) == (f"{url} has no inputs", f"look into {url}")
