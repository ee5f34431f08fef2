"""The look at the hub and its cache that comes before TensorFlow is imported."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlserve_models.hub_cache import CachedModule, require_reachable

from mlserve.errors import ExportError
from mlserve.sources import Classifier
from tests.harness.ports import free_ports

THREE_WAYS = ("--weights FILE", "--model efficientnet_lite0", "TFHUB_CACHE_DIR")


@pytest.fixture
def closed_port() -> int:
    [port] = free_ports(1)
    return port


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose queue is full, so that the kernel drops what comes: no answer at all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
        for each in waiting:
            each.close()


def test_a_hub_that_is_not_there_is_an_error_with_three_ways_on(
    open_model: Callable[..., Classifier], monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("MLSERVE_TFHUB_URL", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(
        ExportError, match=r"TF-Hub cannot be reached .*Connection refused"
    ) as caught:
        open_model("inception_v3")
    assert all(way in str(caught.value.hint) for way in THREE_WAYS)


def test_that_error_comes_before_tensorflow_is_imported(closed_port: int) -> None:
    code = (
        "import sys\nfrom mlserve.errors import ExportError\n"
        "from mlserve.sources import ModelRequest\nfrom mlserve_models.sources import TfHubSource\n"
        "try: TfHubSource().open(ModelRequest('inception_v3'), print)\n"
        "except ExportError: print('tensorflow' in sys.modules)"
    )
    url = f"http://127.0.0.1:{closed_port}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MLSERVE_TFHUB_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_a_hub_that_does_not_answer_the_connection_is_given_up(deaf_port: int) -> None:
    with pytest.raises(ExportError, match=r"(no connection within 0\.3 s|timed out)"):
        require_reachable(f"http://127.0.0.1:{deaf_port}/module", seconds=0.3)


def test_a_name_that_is_unknown_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"hub\.invalid:443"):
        require_reachable("https://hub.invalid/module")


@pytest.mark.parametrize("url", ["ftp://hub/module", "hub/module", "http:///module"])
def test_a_url_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ExportError, match="is not a valid address of a hub"):
        require_reachable(url)


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}"])
def test_behind_a_proxy_it_is_the_proxy_that_must_answer(
    monkeypatch: pytest.MonkeyPatch, form: str, closed_port: int
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", form.format(proxy.getsockname()[1]))
        require_reachable("http://hub.invalid/module")
    monkeypatch.setenv("http_proxy", form.format(closed_port))
    with pytest.raises(ExportError, match=f"127.0.0.1:{closed_port}"):
        require_reachable("http://hub.invalid/module")
    monkeypatch.setenv("no_proxy", "hub.invalid")
    with pytest.raises(ExportError, match=r"hub\.invalid:80"):
        require_reachable("http://hub.invalid/module")


def test_the_default_handle_and_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = CachedModule.from_handle("google/model/1")
    assert module.url == "https://tfhub.dev/google/model/1"
    assert module.cache == home / "cache" / "tfhub"
    assert module.folder.name == hashlib.sha1(module.url.encode()).hexdigest()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(home / "other"))
    assert CachedModule.from_handle("google/model/1").cache == home / "other"


def _leave_lock(module: CachedModule, host: str, pid: int) -> tuple[Path, Path]:
    """What a download of that process leaves when it is killed, as tensorflow-hub names it."""
    identifier = uuid.uuid4().hex
    partial = module.cache / f"{module.folder.name}.{identifier}.tmp"
    partial.mkdir(parents=True)
    (partial / "saved_model.pb").write_bytes(b"half")
    lock = module.cache / f"{module.folder.name}.lock"
    lock.write_text(f"{host}.{pid}.{identifier}")
    return lock, partial


def test_what_a_killed_download_left_is_removed() -> None:
    module = CachedModule.from_handle("google/model/1")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    lock, partial = _leave_lock(module, socket.gethostname(), gone.pid)
    assert module.arrived_bytes() == 4
    module.remove_leftovers()
    assert not lock.exists()
    assert not partial.exists()
    assert not module.is_complete


@pytest.mark.parametrize("host", ["some.other.host", socket.gethostname()])
def test_the_lock_of_a_download_that_may_run_stays(host: str) -> None:
    module = CachedModule.from_handle("google/model/1")
    lock, partial = _leave_lock(module, host, os.getppid())
    module.remove_leftovers()
    assert lock.exists()
    assert partial.exists()


@pytest.mark.parametrize("pid", [os.getppid(), -1, 2**40])
def test_the_lock_of_a_download_whose_pid_another_process_has_is_removed(pid: int) -> None:
    """The lock is older than the process: it was made by one that had the pid before."""
    module = CachedModule.from_handle("google/model/1")
    lock, partial = _leave_lock(module, socket.gethostname(), pid)
    os.utime(lock, (1_000_000, 1_000_000))
    module.remove_leftovers()
    assert lock.exists() == partial.exists() == (pid < 0), "what is no pid is not ours"


def test_no_lock_is_no_matter() -> None:
    CachedModule.from_handle("google/model/1").remove_leftovers()


def test_the_bytes_are_counted_while_the_download_is_renamed_away() -> None:
    module = CachedModule.from_handle("google/model/1")
    partial = module.cache / f"{module.folder.name}.0.tmp"
    partial.mkdir(parents=True)
    (partial / "saved_model.pb").write_bytes(b"half")
    elsewhere = module.cache / "done"
    is_over = threading.Event()

    def rename() -> None:
        while not is_over.is_set():
            partial.rename(elsewhere)
            elsewhere.rename(partial)

    renaming = threading.Thread(target=rename)
    renaming.start()
    try:
        assert {module.arrived_bytes() for _ in range(3000)} <= {0, 4}
    finally:
        is_over.set()
        renaming.join()
