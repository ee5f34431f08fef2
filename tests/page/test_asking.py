"""The page in a real browser: what is dropped, pasted, chosen or written gets its answer."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel
from tests.harness.server import EchoServer, running
from tests.page.scenes import (
    ENTER,
    LABEL,
    TOKEN,
    fact,
    opened,
    refuses_to_be_left,
    signature_shown,
)

pytestmark = pytest.mark.server


def test_a_dropped_image(browser: Browser, two_versions: EchoServer, image: Path) -> None:
    address = opened(browser, two_versions)

    browser.drop(image, "image/jpeg")

    assert browser.text(LABEL) == "zebra"
    names = browser.texts(".bars .name")
    assert names == ["zebra", "zebra", "ox", "hartebeest", "impala"]
    assert browser.texts(".bars .number")[0] == "0.5"
    widths = browser.run(
        "return [...document.querySelectorAll('.bars .fill')].map((each) => each.offsetWidth)"
    )
    assert widths[0] > 1.8 * widths[1] > 0
    assert [text.split()[0] for text in browser.texts(".answer .keys li")] == [
        *("queue", "decode", "run", "encode", "network")
    ]
    assert fact(browser, "Version") == "2"
    assert fact(browser, "Certificate").startswith("none")
    assert fact(browser, "Signature") == "top_k"
    assert browser.sees("#image-name")
    browser.wait(lambda: not browser.text("#tile-rate").endswith("\n0 since its start"))
    browser.wait(lambda: "half ended within" in browser.text("#histogram-note"))
    refuses_to_be_left(browser, address)


def test_more_labels_than_the_usual_signature_has(
    browser: Browser, two_versions: EchoServer, image: Path
) -> None:
    opened(browser, two_versions)
    browser.type("#count", "12")

    browser.give("#file", image)

    browser.wait(lambda: len(browser.texts(".bars li")) == 12)
    assert fact(browser, "Signature") == "ranking"


def test_a_pasted_image(browser: Browser, two_versions: EchoServer, image: Path) -> None:
    opened(browser, two_versions)
    browser.drop(image, "image/jpeg", by="paste")
    assert browser.text(LABEL) == "zebra"


def test_two_versions_side_by_side(browser: Browser, two_versions: EchoServer, image: Path) -> None:
    opened(browser, two_versions)
    browser.choose("#second", "version 1")

    browser.drop(image, "image/jpeg")

    assert browser.text("#verdict") == "They differ: zebra, and sorrel."
    assert browser.texts(LABEL) == ["zebra", "sorrel"]
    tops = browser.run(
        "const all = [...document.querySelectorAll('.answer')];"
        "return all.map((each) => each.getBoundingClientRect().top)"
    )
    assert tops[0] == tops[1]
    browser.choose("#first", "version 1")
    browser.click("#ask-button")
    browser.wait(lambda: browser.text("#verdict").startswith("Both say sorrel."))


def test_an_error_is_shown_as_it_is_with_its_hint(
    browser: Browser, two_versions: EchoServer, tmp_path: Path
) -> None:
    opened(browser, two_versions)
    odd, bad = tmp_path / "odd.png", tmp_path / "bad.png"
    odd.write_bytes(b"odd")
    bad.write_bytes(b"bad")

    browser.drop(odd, "image/png")
    assert browser.text(".answer .error") == "415 Unsupported Media Type this image is odd"
    assert browser.text(".answer .hint") == "Hint send another one"

    browser.drop(bad, "image/png")
    browser.wait(lambda: "is not a JPEG or PNG file" in browser.text(".answer .error"))
    assert not browser.sees(".answer .hint")
    assert browser.sees(".answer.failed")
    browser.wait(lambda: not browser.sees("#preview"))


def test_a_deadline_that_passes(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    browser.choose("#signature", "slow")
    browser.wait(lambda: browser.sees("#input-0"))
    browser.type("#input-0", "[5]")
    browser.type("#seconds", "0.2")

    browser.click("#ask-button")

    browser.wait(lambda: browser.text(".answer .error").startswith("504 Gateway Timeout"))


def test_a_refusal_and_the_way_back(browser: Browser, tmp_path: Path, image: Path) -> None:
    model = EchoModel(tmp_path / "m")
    released = tmp_path / "released"
    model.put(1, released=str(released))
    flags = ("--threads=1", "--max-queue=0", "--processes=1")
    with running(model, tmp_path / "log", *flags) as server:
        server.wait_ready()
        opened(browser, server)
        body = {"signature_name": "slow", "inputs": {"seconds": [25]}}
        busy = threading.Thread(target=server.post, args=(body,))
        busy.start()
        page = f"http://{server.rest}/metrics"
        browser.wait(lambda: "mlserve_requests_running 1.0" in httpx.get(page).text)

        browser.drop(image, "image/jpeg")

        assert browser.text(".answer .error").startswith("429 Too Many Requests")
        assert "the queue is full" in browser.text(".answer .message")
        assert "send fewer requests at once" in browser.text(".answer .hint")
        browser.wait(lambda: "queue full 1" in browser.text("#tile-refused"))
        released.touch()
        busy.join()
        browser.run(
            "const all = [...document.querySelectorAll('.answer button')];"
            "all.find((each) => each.textContent === 'Ask again').click()"
        )
        assert browser.text(LABEL) == "sorrel"


def test_a_token_is_asked_for_and_kept_nowhere(
    browser: Browser, locked: EchoServer, image: Path
) -> None:
    address = f"http://{locked.rest}/"
    browser.open(address)
    assert "only callers that send its token" in browser.text("#token-why")
    assert not browser.sees("#ask-form")

    browser.type("#token-field", "a-wrong-one")
    browser.press(ENTER)
    browser.wait(lambda: "does not match" in browser.text("#token-why"))
    browser.type("#token-field", TOKEN)
    browser.press(ENTER)
    browser.wait(lambda: browser.sees("#ask-form"))
    browser.drop(image, "image/jpeg")

    assert browser.text(LABEL) == "sorrel"
    assert "$MLSERVE_TOKEN" not in browser.text("#command")
    kept = (
        "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,"
        "location.href, history.state])"
    )
    assert TOKEN not in browser.run(kept)
    assert TOKEN not in browser.run("return document.documentElement.outerHTML")
    assert all(TOKEN not in url for url in browser.asked_for())
    browser.open(address)
    assert browser.sees("#token-form") or browser.wait(lambda: browser.sees("#token-form"))


def test_a_form_made_of_the_signature(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    assert not browser.sees("#image-pane")

    browser.type("#input-0", "[1.5, 2]")
    browser.type("#input-1", "[10, 20]")
    browser.click("#ask-button")

    browser.wait(lambda: browser.texts(".rows tbody tr") == ["1\t12\t15", "2\t22.5\t40"])
    browser.choose("#second", "version 1")
    assert browser.text("#verdict") == "The largest difference is 0.5."

    browser.type("#input-0", "[1.5, ")
    browser.click("#ask-button")
    assert "a is not JSON" in browser.text("#problem")
    assert "a: FP32 [rows]" in browser.text("#problem .hint")


def test_no_digit_of_a_whole_number_is_lost(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "identity_int64", ["x"])
    browser.type("#input-0", "[9007199254740993]")
    browser.click("#ask-button")
    browser.wait(lambda: browser.texts(".answer .value") == ["9007199254740993"])

    browser.choose("#signature", "identity_float64")
    browser.wait(lambda: "FP64" in browser.text("#input-0-kind"))
    browser.type("#input-0", "[NaN, -Infinity, 0.1]")
    browser.click("#ask-button")
    browser.wait(lambda: browser.texts(".rows td") == ["NaN", "-Infinity", "0.1"])


def test_a_table(browser: Browser, two_versions: EchoServer, tmp_path: Path) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    table, torn = tmp_path / "rows.csv", tmp_path / "torn.csv"
    table.write_text('"b",name,a\n10,"one, two",1\n\n.5,"a ""b""",+2.\n')
    torn.write_text("a,b\n1,2\n3,x\n")

    browser.drop(table, "text/csv")
    browser.wait(lambda: browser.texts(".rows tbody tr") == ["1\t11.5\t10", "2\t3\t1"])
    assert "2 rows of 3 columns" in browser.text("#table-name")

    browser.give("#table-file", torn)
    browser.wait(
        lambda: "torn.csv, line 3, column 'b': 'x' is not a number" in browser.text("#problem")
    )
