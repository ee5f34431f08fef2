"""Debian's Chromium without a window, driven by its own driver (https://www.w3.org/TR/webdriver2/).

`apt-get install chromium chromium-driver` brings both. Besides the commands of the standard there
is what the browser itself logs: which addresses a page has asked for, and what it complains of.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from mlserve.testing.processes import stopping, wait_until

T = TypeVar("T")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element in JSON (WebDriver, section 12.1)."""
_PATIENCE = 60.0
"""Seconds for the page to come to what a test expects, on a machine with much else to do."""
_SCRIPT = 120
"""Seconds for a script, such as one that looks at each element of a page."""
_STARTS = 5
"""How often the driver is started until it has a port."""
_ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-extensions", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb"),
)


def why_absent() -> str | None:
    """Return why there is no browser, or None if there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return (
        f"{' and '.join(absent)} not on PATH (Debian: chromium, chromium-driver)"
        if absent
        else None
    )


def require() -> None:
    """Skip the test without a browser; fail it where one is required."""
    reason = why_absent()
    if reason is not None and os.environ.get("MLSERVE_TEST_BROWSER") == "required":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


class Browser:
    """A window of the browser. Elements are named by CSS selectors; what waits has a condition."""

    def __init__(self, driver: httpx.Client, session: str, saved: Path) -> None:
        self.saved = saved
        """The folder of the files that pages have offered to save."""
        self._driver = driver
        self._at = f"/session/{session}"

    def open(self, url: str) -> None:
        """Go to an address, and forget what was logged before."""
        self.logged("performance")
        self.logged("browser")
        self._post("/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns in the page; a promise is awaited."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def wait(self, condition: Callable[[], T | None]) -> T:
        """Return what a condition on the page returns, once it holds."""
        return wait_until(condition, _PATIENCE)

    def sees(self, selector: str) -> bool:
        """Return whether there is such an element, and it is shown."""
        shown = (
            "const all = [...document.querySelectorAll(arguments[0])];"
            "return all.some((each) => each.checkVisibility())"
        )
        return bool(self.run(shown, selector))

    def text(self, selector: str) -> str:
        """Return the text of the first such element, once it is shown."""
        self.wait(lambda: self.sees(selector))
        shown = (
            "const all = [...document.querySelectorAll(arguments[0])];"
            "return all.find((each) => each.checkVisibility()).innerText"
        )
        return str(self.run(shown, selector))

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all such elements."""
        every = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        found: list[str] = self.run(every, selector)
        return found

    def click(self, selector: str) -> None:
        self.wait(lambda: self.sees(selector))
        self._post(f"/element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Put text into a field in place of what stands there."""
        element = self._find(selector)
        self._post(f"/element/{element}/clear")
        self._post(f"/element/{element}/value", text=text)

    def give(self, selector: str, path: Path) -> None:
        """Choose a file, as in the dialog of an input."""
        self._post(f"/element/{self._find(selector)}/value", text=str(path))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def choose(self, selector: str, words: str) -> None:
        """Choose the option of a select that has these words in its text, once it is there."""
        script = """
            const field = document.querySelector(arguments[0]);
            const option = [...field.options].find(({ text }) => text.includes(arguments[1]));
            if (!option) return false;
            field.value = option.value;
            field.dispatchEvent(new Event("input", { bubbles: true }));
            field.dispatchEvent(new Event("change", { bubbles: true }));
            return true;
        """
        self.wait(lambda: self.run(script, selector, words))

    def drop(self, path: Path, kind: str, *, by: str = "drop") -> None:
        """Drop a file on the page, or paste it (`by="paste"`), as a hand does."""
        script = """
            const [name, kind, content, by] = arguments;
            const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: kind }));
            const how = { bubbles: true, cancelable: true };
            const event = by === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, ...how })
                : new DragEvent("drop", { dataTransfer: data, ...how });
            document.body.dispatchEvent(event);
        """
        content = base64.b64encode(path.read_bytes()).decode()
        self.run(script, path.name, kind, content, by)

    def look(self, *, width: int, height: int = 900, is_dark: bool = False) -> None:
        """Give the window that size, in CSS pixels, and the system's theme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        theme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        self.tell("Emulation.setEmulatedMedia", features=[theme, calm])

    def picture(self, part: str | None = None) -> bytes:
        """Return a PNG of what the window shows, or of a part of the page."""
        if part is None:
            taken = self.tell("Page.captureScreenshot", format="png")
            return base64.b64decode(taken["data"])
        script = """
            const part = document.querySelector(arguments[0]);
            const { x, y, width, height } = part.getBoundingClientRect();
            return { x: x + scrollX, y: y + scrollY, width, height, scale: 1 };
        """
        clip = self.run(script, part)
        taken = self.tell("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    def tell(self, command: str, **parameters: Any) -> Any:
        """Send a command of the browser's own protocol."""
        return self._post("/goog/cdp/execute", cmd=command, params=parameters)

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """Return what is new in a log: `performance` or `browser`."""
        entries: list[dict[str, Any]] = self._post("/se/log", type=kind)
        return entries

    def asked_for(self) -> list[str]:
        """Return the addresses that pages have asked for since the last look."""
        messages = (json.loads(entry["message"])["message"] for entry in self.logged("performance"))
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return what the browser and the page have complained of since the last look."""
        return [entry["message"] for entry in self.logged("browser")]

    def _find(self, selector: str) -> str:
        found = self._post("/element", using="css selector", value=selector)
        return str(found[_ELEMENT])

    def _post(self, path: str, **body: Any) -> Any:
        answer = self._driver.post(self._at + path, json=body)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Start a browser, yield its window, and end it; its profile is in `folder`."""
    folder.mkdir(exist_ok=True)
    log = folder / "driver.log"
    driver_path, browser_path = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver_path, why_absent()
    assert browser_path, why_absent()
    options = {
        "binary": browser_path,
        "args": [*_ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
        "prefs": {"download.default_directory": str(folder / "saved")},
    }
    wanted = {
        "browserName": "chrome",
        "acceptInsecureCerts": True,
        "timeouts": {"script": _SCRIPT * 1000},
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
    }
    with (
        _driving(driver_path, log) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2 * _SCRIPT) as driver,
    ):
        answer = driver.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        assert answer.status_code == 200, answer.text
        session = answer.json()["value"]["sessionId"]
        try:
            yield Browser(driver, session, folder / "saved")
        finally:
            driver.delete(f"/session/{session}")


@contextmanager
def _driving(driver_path: str, log: Path) -> Iterator[str]:
    """Start the driver, and yield its port.

    The port that the system has free for IPv6 may be taken for IPv4: the driver then ends, and is
    started anew.
    """
    for _ in range(_STARTS):
        with (
            log.open("wb") as said,
            subprocess.Popen([driver_path, "--port=0"], stdout=said, stderr=said) as process,
            stopping(process),
        ):
            wait_until(lambda: _port_in(log.read_text()) or process.poll() is not None)
            port = _port_in(log.read_text())
            if port is not None:
                yield port
                return
    raise AssertionError(log.read_text())


def _port_in(log: str) -> str | None:
    found = re.search(r"started successfully on port (\d+)", log)
    return found[1] if found else None
