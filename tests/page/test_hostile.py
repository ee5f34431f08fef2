"""Answers, labels and files that nobody expects: shown as they are, or said to be wrong."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.harness.chromium import Browser
from tests.harness.echo import EchoModel, manifest
from tests.harness.server import EchoServer, running
from tests.page.scenes import LABEL, answer_with, ask, opened, signature_shown

pytestmark = pytest.mark.server

MARKUP = '<img src=x onerror="document.title=1">\'</script>'
BACKWARDS = "\u202egnp.live"
LONG = "very " * 2000


def test_labels_of_any_kind(browser: Browser, two_versions: EchoServer, image: Path) -> None:
    """Markup, another direction of writing, great length; scores that are no usual numbers."""
    opened(browser, two_versions)
    labels = [MARKUP, BACKWARDS, LONG, {"b64": "/9j/"}, {"b64": "!"}, None, "last"]
    scores = [float("nan"), 2**60 + 1, 2**60, float("inf"), float("-inf"), -0.5, 0]
    body = json.dumps({"predictions": [{"labels": labels, "scores": scores}]})
    answer_with(browser, ":predict", body)
    browser.choose("#second", "version 1")
    browser.type("#count", "7")

    browser.drop(image, "image/jpeg")

    browser.wait(lambda: len(browser.texts(".bars li")) == 14)
    assert browser.texts(".bars .name")[:7] == [
        "3 bytes that are not text: /9j/",
        BACKWARDS,
        f"{LONG[:300]}… (10,000 characters)",
        "last",
        "null",
        "0 bytes that are not text: !",
        MARKUP,
    ]
    assert browser.texts(".bars .number")[:7] == [
        *("Infinity", str(2**60 + 1), str(2**60), "0", "-0.5", "-Infinity", "NaN")
    ]
    widths = browser.run(
        "return [...document.querySelectorAll('.bars .fill')].map((each) => each.offsetWidth)"
    )
    assert widths[0] == widths[1] > 100
    assert widths[5:7] == [0, 0]
    assert browser.text("#verdict").endswith("The scores of the best are 0 apart.")
    assert browser.run("return document.title") == "mlserve"
    browser.look(width=320)
    assert browser.run("return document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_answers_that_are_none(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    deep = "[" * 100_000 + "]" * 100_000
    for body, said in (
        ("<!doctype html><title>Log in</title>", "is not the answer of a model server"),
        (deep, "is not the answer of a model server"),
        ("null", "the answer has no outputs"),
        ('{"outputs": 5}', "the answer has no outputs"),
        ("", "is not the answer of a model server"),
    ):
        answer_with(browser, ":predict", body)
        ask(browser)
        assert said in browser.text(".answer .error"), body[:100]


def test_a_document_that_is_none(browser: Browser, two_versions: EchoServer) -> None:
    """JSON of something else: of a proxy, say. The page said `connecting` for ever."""
    browser.open(f"http://{two_versions.rest}/docs")
    browser.wait(lambda: browser.sees(".operation"))
    for body in ("{}", "null", "[]", '"x"', '{"info": {}, "paths": {"/": null}, "components": {}}'):
        browser.run("byId('state').textContent = ''")
        answer_with(browser, "openapi.json", body)
        browser.run("connect()")
        browser.wait(lambda: "is no OpenAPI document" in browser.text("#state"))


def test_answers_that_are_large_or_exact(browser: Browser, two_versions: EchoServer) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "two", ["a", "b"])
    browser.choose("#second", "version 1")
    most = 2**64 - 1

    def shown(**outputs: object) -> list[str]:
        answer_with(browser, ":predict", json.dumps({"outputs": outputs}))
        ask(browser)
        return browser.texts(".answer:first-of-type .value")

    assert shown(sum=[most], product=[-(2**63)]) == [str(most), str(-(2**63))]
    assert browser.text("#verdict") == "The answers are the same."
    assert shown(sum=[{"a": most}], product=[None]) == [f'{{"a":"{most}"}}', "null"]
    assert shown(sum=[{"b64": "Z29vZA=="}], product=["\u202eabc"]) == ["good", "\u202eabc"]
    [value, _] = shown(sum=[[[[float(most)] * 50] * 50] * 50], product=[1])
    assert value.endswith("… 50 in all]")
    assert len(value) < 60_000
    [text] = shown(sum=["word " * 2000], product=[1])[:1]
    assert text.endswith("… (10,000 characters)")
    assert len(text) > 4000

    # Seven megabytes of numbers, NaN among them, and a string that is as long.
    numbers = [0.5, float("nan"), *[0.25] * 1_000_000]
    shown(sum=[numbers], product=["x" * 7_000_000])
    assert browser.texts(".answer:first-of-type .bars .number") == ["0.5", *["0.25"] * 4]
    assert "… (7,000,000 characters)" in browser.text(".answer .value")
    browser.type("#count", "2000")
    ask(browser)
    assert len(browser.texts(".answer:first-of-type .bars li")) == 1000
    assert "and 1,000 more" in browser.text(".answer")


def test_two_answers_that_differ_in_more_than_numbers(
    browser: Browser, two_versions: EchoServer
) -> None:
    opened(browser, two_versions)
    signature_shown(browser, "identity_bytes", ["x"])
    browser.run("document.querySelector('input[name=kind][value=form]').click()")
    browser.choose("#second", "version 1")
    for first, second, said in (
        ({"b64": "/9j/"}, {"b64": "/9j+"}, "The answers differ."),
        ("a" * 400, "a" * 399 + "b", "The answers differ."),
        (2**60, 2**60 + 1, "The largest difference is 1."),
        (float("nan"), float("nan"), "The answers are the same."),
        (MARKUP, BACKWARDS, f"They differ: {MARKUP}, and {BACKWARDS}."),
        ([1], [1, 2], "The answers are of another form."),
    ):
        # The two get their own answers by the version in the address.
        browser.run(
            """
            const answers = arguments;
            window.ownFetch ??= window.fetch;
            window.fetch = async (address, how) => {
                const which = /versions\\/(\\d)/.exec(address)?.[1];
                return how.method === "POST"
                    ? new Response(answers[2 - which]) : window.ownFetch(address, how);
            };
            """,
            *(json.dumps({"outputs": [value]}) for value in (first, second)),
        )
        ask(browser)
        assert browser.text("#verdict") == said


def test_files_that_cannot_be_read(
    browser: Browser, two_versions: EchoServer, tmp_path: Path
) -> None:
    opened(browser, two_versions)
    image = tmp_path / "changed.jpg"
    image.write_bytes(b"a photo")
    browser.give("#file", image)
    browser.wait(lambda: browser.sees(LABEL))
    image.write_bytes(b"another photo, which was taken later")
    os.utime(image, (1, 1))
    ask(browser)
    assert "changed.jpg cannot be read" in browser.text("#problem")
    assert "give it again" in browser.text("#problem .hint")
    assert not browser.sees(".answer")

    signature_shown(browser, "two", ["a", "b"])
    table = tmp_path / "rows.csv"
    for text, said in (
        ("a,b\n1,1e39\n", "line 2, column 'b': '1e39' is too large for FP32"),
        (f"a,b\n1,{LONG}\n", "… (10,000 characters)' is not a number"),
        ("a,b\n\udcff,1\n", "rows.csv is not UTF-8 text"),
        ("", "rows.csv has no header"),
    ):
        table.write_text(text, errors="surrogateescape")
        browser.give("#table-file", table)
        browser.wait(partial(_complains, browser, said))


def _complains(browser: Browser, said: str) -> bool:
    return said in browser.text("#problem")


def test_a_photo_that_lies_on_its_side(browser: Browser, tmp_path: Path) -> None:
    """It is shown as the model sees it: this one does not turn photos by their EXIF data."""
    side, plain = tmp_path / "side.jpg", tmp_path / "plain.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200), "red").save(side, exif=exif.tobytes())
    Image.new("RGB", (4000, 3000), "red").save(plain)
    model = EchoModel(tmp_path / "horses")
    model.put(1, manifest=manifest("horses"))
    with running(model, tmp_path / "log") as server:
        server.wait_ready()
        opened(browser, server)
        browser.give("#file", side)
        assert "does not turn photos" in browser.text("#image-note")
        wide = "const box = byId('preview'); return box.offsetWidth > box.offsetHeight"
        browser.wait(lambda: browser.run("return byId('preview').complete") is True)
        assert browser.run(wide) is True
        browser.give("#file", plain)  # twelve megapixels
        browser.wait(lambda: not browser.sees("#image-note"))
        browser.wait(lambda: "plain.jpg" in browser.text("#image-name"))

        # What is copied in a spreadsheet is text and a picture: the text goes into the field.
        paste = """
            const data = new DataTransfer();
            data.items.add("1\\t2", "text/plain");
            data.items.add(new File(["x"], "cells.png", { type: "image/png" }));
            const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true,
                cancelable: true });
            return document.getElementById("count").dispatchEvent(event);
        """
        assert browser.run(paste) is True
        assert "plain.jpg" in browser.text("#image-name")
