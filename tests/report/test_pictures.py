"""Reports in a real browser: nothing is cut off, nothing lies on anything else, and it is drawn.

Needs Debian's `chromium`; without it these tests are skipped. `MLSERVE_TEST_PICTURES=FOLDER` keeps
the pictures, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from mlserve.report.page import Markup, Section, document
from tests.report.browser import Layout, chromium, layouts, screenshot
from tests.report.samples import SAMPLES, photos

WIDTHS = (420, 700, 1280)
PAPER = {"light": (255, 255, 255), "dark": (13, 17, 23)}
WIDE = '<div style="width:584px">wide</div>'
FIRST, SECOND = (9, 105, 218), (188, 76, 0)
"""The colours of the first two targets on white."""

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium is installed: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every kind of report, by its name in `samples.py`."""
    images = photos(tmp_path_factory.mktemp("photos"))
    return {name: make(images) for name, make in SAMPLES.items()}


@pytest.fixture(scope="module")
def laid_out(pages: dict[str, str]) -> Callable[[int], dict[str, Layout]]:
    """`laid_out(width)` are their layouts in a frame of that width."""
    return cache(lambda width: layouts(pages, width))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where pictures are put."""
    kept = os.environ.get("MLSERVE_TEST_PICTURES")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("pictures")
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_and_no_text_lies_on_another(
    pages: dict[str, str], laid_out: Callable[[int], dict[str, Layout]], width: int
) -> None:
    found = laid_out(width)

    assert {name: layout.problems for name, layout in found.items()} == {name: [] for name in pages}
    assert {name: layout.width for name, layout in found.items() if layout.width > width} == {}
    assert {name: _drawn(layout) for name, layout in found.items()} == {
        "agreeing": (2, 9 + 46, 20),  # percentiles of three, and two distances an image
        "differing": (2, 6 + 23, 20),
        "failing": (1, 7, 6),
        "nothing": (0, 0, 1),
        "hostile": (2, 42, 6),
        "rows_of_tables": (1, 6, 0),
        "bench": (8, 6 * 3 + 2 * 15 + 4 * 4, 0),
        "certify": (1, 32, 3),
    }


def _drawn(layout: Layout) -> tuple[int, int, int]:
    return tuple(layout.found[key] for key in ("drawings", "dots", "pictures"))  # type: ignore[return-value]


@pytest.mark.parametrize(("width", "theme"), [(420, "light"), (1280, "dark")])
def test_the_pictures_show_the_colours_of_what_is_compared(
    pages: dict[str, str],
    laid_out: Callable[[int], dict[str, Layout]],
    pictures: Path,
    width: int,
    theme: str,
) -> None:
    found = laid_out(width)
    for name, page in pages.items():
        if name != "differing" and "MLSERVE_TEST_PICTURES" not in os.environ:
            continue
        path = pictures / f"{name}-{width}-{theme}.png"
        screenshot(page, path, width, found[name].height, is_dark=theme == "dark")
        with Image.open(path) as image:
            colours = image.convert("RGB").getcolors(2**24) or []
            counts = {colour: count for count, colour in colours}
            assert image.size == (width, found[name].height)
        assert max(counts, key=lambda colour: counts[colour]) == PAPER[theme], name
        if theme == "light" and name != "nothing":
            assert counts[FIRST] > 100, name
            assert counts[SECOND] > 100, name


def test_what_is_measured_finds_what_is_wrong() -> None:
    """A page with one of each fault."""
    texts = '<text x="10" y="20">one</text><text x="20" y="22">two</text>'
    drawn = (
        f'<svg aria-label="A plot" viewBox="0 0 100 40">{texts}<text x="90" y="9">out</text></svg>'
    )
    page = document("A page", [], [Section("A plot", [Markup(drawn), Markup(WIDE)])])

    found = layouts({"page": page}, 420)["page"]

    assert [problem.partition(" text")[0] for problem in found.problems] == [
        "outside the page: DIV wide",
        'A plot: "out" is outside the drawing',
        'A plot: "one" lies on "two"',
    ]
    assert found.width == 600
