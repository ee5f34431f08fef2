"""Takes the pictures of the page and of a report in a real browser, of real models.

It exports EfficientNet-Lite0 for two backends, serves both in one server, and asks both about
examples/horse.jpg through the page. Then it exports the model once more with a wrong scale,
compares two exports on the golden images, and shows the report. The pictures are written small,
with a palette of 256 colours. `make pictures` runs this.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mlserve.client import Client, ModelMetadata  # noqa: E402
from mlserve.errors import ExitCode  # noqa: E402
from mlserve.testing.processes import wait_until  # noqa: E402
from tests.harness import chromium  # noqa: E402
from tests.harness.chromium import Browser  # noqa: E402
from tests.harness.ports import free_ports  # noqa: E402
from tests.report import browser as pages  # noqa: E402

FOLDER = ROOT / "docs" / "images"
PHOTOS = ROOT / "mlserve" / "certificate" / "images"
HORSE = ROOT / "examples" / "horse.jpg"
BACKENDS = ("onnxruntime", "openvino")
FILE = """\
[servers.pictures]
grpc_port = {grpc}
rest_port = {rest}
"""
HOLDS = "certificate=holds"
_GOLDEN, _BUSY = 300.0, 8.0
"""Seconds until all golden inputs are answered, and seconds of load."""
MODEL = """
[servers.pictures.models.efficientnet-{backend}]
backend = "{backend}"
model = "efficientnet_lite0"
threads = 1
"""


def main() -> None:
    """Take all pictures."""
    reason = chromium.why_absent()
    if reason is not None:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**os.environ, "MLSERVE_HOME": str(folder / "home")}
        for backend in BACKENDS:
            mlserve(folder, env, "export", "--backend", backend, "--model", "efficientnet_lite0")
        grpc, rest = free_ports(2)
        text = FILE.format(grpc=grpc, rest=rest)
        text += "".join(MODEL.format(backend=backend) for backend in BACKENDS)
        (folder / "mlserve.toml").write_text(text)
        mlserve(folder, env, "up", "pictures")
        try:
            with chromium.browsing(folder / "browser") as browser:
                take(browser, f"http://127.0.0.1:{rest}")
        finally:
            mlserve(folder, env, "down", "pictures")
        take_report(folder, env)


def mlserve(folder: Path, env: dict[str, str], *arguments: str, code: int = 0) -> None:
    """Run a command of mlserve there, which must end with that exit code."""
    argv = [sys.executable, "-m", "mlserve", *arguments]
    done = subprocess.run(argv, cwd=folder, env=env, check=False)
    if done.returncode != code:
        raise SystemExit(f"mlserve {arguments[0]} ended with {done.returncode}, not {code}")


def take_report(folder: Path, env: dict[str, str]) -> None:
    """Take the picture of a report about two exports, one of which has a wrong scale."""
    first, second = BACKENDS
    wrong = ("--backend", second, "--model", "efficientnet_lite0", "--scale", "0..1")
    mlserve(folder, env, "export", *wrong)
    report = folder / "report.html"
    compared = (f"{first}@1", f"{second}@2", str(PHOTOS), "--report", str(report))
    mlserve(folder, env, "compare", *compared, code=ExitCode.DIFFERENT)
    pages.screenshot(report.read_text(), folder / "report.png", 1000, 1010)
    written(Image.open(folder / "report.png").convert("RGB"), "report")


def take(browser: Browser, address: str) -> None:
    """Take each picture once what it shows is there."""
    wait_until(lambda: has_certificates(address), _GOLDEN)
    browser.look(width=1280, height=860)
    browser.open(f"{address}/")
    browser.wait(lambda: browser.sees("#ask-form"))
    browser.drop(HORSE, "image/jpeg")
    browser.wait(lambda: browser.text(".answer .label") == "sorrel")
    save(browser, "page-answer")
    busy(address)
    save(browser, "page-load", ".load")
    browser.look(width=420, height=900)
    save(browser, "page-phone")
    browser.look(width=1280, height=860, is_dark=True)
    browser.choose("#second", "openvino")
    browser.wait(lambda: len(browser.texts(".answer .label")) == len(BACKENDS))
    save(browser, "page-two")
    browser.look(width=1280, height=860)
    browser.open(f"{address}/docs")
    browser.wait(lambda: browser.sees(".operation"))
    browser.run("document.querySelector('.operation').open = true")
    save(browser, "page-docs")


def has_certificates(address: str) -> bool:
    """Return whether each model is known to answer here as it did at its export."""
    models = [f"efficientnet-{backend}" for backend in BACKENDS]
    return all(HOLDS in (described(address, model).served_by or "") for model in models)


def described(address: str, model: str) -> ModelMetadata:
    """Return what the server says of a model."""
    with Client(address, model=model) as client:
        return client.metadata(timeout=20)


def busy(address: str) -> None:
    """Ask from several threads for some seconds, so that there is a load to be seen."""
    until = time.monotonic() + _BUSY

    def ask(backend: str) -> None:
        with Client(address, model=f"efficientnet-{backend}") as client:
            while time.monotonic() < until:
                client.predict(HORSE, timeout=20)

    with ThreadPoolExecutor() as threads:
        list(threads.map(ask, BACKENDS * 2))


def save(browser: Browser, name: str, part: str | None = None) -> None:
    """Write what the window shows, or a part of the page, as a small PNG."""
    written(Image.open(io.BytesIO(browser.picture(part))).convert("RGB"), name)


def written(picture: Image.Image, name: str) -> None:
    """Write a small PNG."""
    small = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(FOLDER / f"{name}.png", optimize=True)
    print(f"{name}.png: {picture.width}x{picture.height}")  # noqa: T201


if __name__ == "__main__":
    main()
