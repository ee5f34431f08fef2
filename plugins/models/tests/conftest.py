"""What the tests of the model sources share: TensorFlow, a hub of their own, and `open_model`."""

from __future__ import annotations

import gc
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlserve_models.framework import framework_imports
from mlserve_models.plugin import mlserve_model_sources

from mlserve.sources import Classifier, ModelRequest

Reports = list[tuple[str, int, int | None]]


@pytest.fixture(autouse=True)
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An mlserve home of the test's own, and none of the user's hub settings."""
    for name in list(os.environ):
        if name.startswith("TFHUB_") or name.lower() in ("mlserve_tfhub_url", "http_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TFHUB_DOWNLOAD_PROGRESS", "1")  # the sources must keep it off stdout
    return home


@pytest.fixture(scope="session")
def tf() -> Any:
    with framework_imports():
        import tensorflow as tf
    return tf


@pytest.fixture(scope="session")
def keras() -> Any:
    with framework_imports():
        import keras
    return keras


@pytest.fixture
def reports() -> Reports:
    """What `open_model` reported as progress."""
    return []


@pytest.fixture
def open_model(reports: Reports) -> Callable[..., Classifier]:
    """Opens a request with the one source that accepts it."""

    def open_(model: str, **options: Any) -> Classifier:
        request = ModelRequest(model, **options)
        (source,) = [each for each in mlserve_model_sources() if each.accepts(request)]
        return source.open(request, lambda *report: reports.append(report))

    return open_


@pytest.fixture
def labels_file(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a file of so many labels."""

    def write(count: int) -> Path:
        path = tmp_path / f"labels{count}.txt"
        path.write_text("".join(f"class {index}\n" for index in range(count)))
        return path

    return write


@pytest.fixture
def save_module(tf: Any) -> Callable[..., Path]:
    """Saves a function of an image batch as a SavedModel that can be called."""

    def save(folder: Path, function: Any, shape: list[int | None], **options: Any) -> Path:
        return _save(tf, folder, function, shape, **options)

    return save


@pytest.fixture(scope="session")
def module_tar(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A compressed hub module of Inception v3's interface: its logits are the first 1001 values.

    They are multiplied by a variable, 0.5.
    """
    gain = tf.Variable(0.5)

    def logits(images: Any) -> Any:
        return gain * tf.reshape(images, [-1, 299 * 299 * 3])[:, :1001]

    folder = tmp_path_factory.mktemp("hub") / "module"
    return _tar(_save(tf, folder, logits, [None, 299, 299, 3], tracked=gain))


@pytest.fixture
def tar_of() -> Callable[[Path], bytes]:
    return _tar


@dataclass
class Hub:
    """A stand-in for TF-Hub: answers each GET as `answer` says, and notes its path."""

    url: str
    answer: Callable[[BaseHTTPRequestHandler], None]
    is_over: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)

    def serve(self, body: bytes, *, announced: int | None = None, status: int = 200) -> None:
        """From now on answers with `body`, and may announce more of it than comes."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(announced or len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.answer = answer

    def stay_silent(self) -> None:
        """From now on takes requests and gives no answer until the test is over."""

        def wait(_: BaseHTTPRequestHandler) -> None:
            self.is_over.wait()

        self.answer = wait


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in on a port of its own, named by MLSERVE_TFHUB_URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append(self.path)
            found.answer(self)

        def log_message(self, *_: object) -> None:
            """Says nothing: what was asked for is in `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hub(f"http://127.0.0.1:{server.server_port}", lambda _: None)
    monkeypatch.setenv("MLSERVE_TFHUB_URL", found.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    gc.collect()  # the connections that tensorflow-hub leaves open go here, not in a later test
    found.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _save(
    tf: Any, folder: Path, function: Any, shape: list[int | None], tracked: Any = None
) -> Path:
    module = tf.Module()
    module.tracked = tracked
    spec = tf.TensorSpec(shape, tf.float32, name="images")
    module.__call__ = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, str(folder))
    return folder


def _tar(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname=".")
    return out.getvalue()
