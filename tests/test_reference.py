"""The pages of docs/reference are what their script makes of the code."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from mlserve.options import described
from mlserve.settings import ServerSettings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PAGES = ("commands.md", "settings.md", "errors.md")


@cache
def _module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return import_module(name)


@cache
def _pages() -> dict[str, str]:
    pages: dict[str, str] = _module("generate").pages()
    return pages


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert sorted(_pages()) == sorted(PAGES)
    is_current = (FOLDER / name).read_text(encoding="utf-8") == _pages()[name]

    assert is_current, f"docs/reference/{name} is out of date: run `make reference`"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_a_page_and_to_a_heading(name: str) -> None:
    links = re.findall(r"\]\(([\w./-]*)(?:#([^)]+))?\)", _pages()[name])
    assert links
    for page, anchor in links:
        path = FOLDER / (page or name)
        assert path.exists(), page
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in map(_module("page_blocks").anchor, headings), (
            f"{page}#{anchor}"
        )


@pytest.mark.parametrize("name", PAGES)
def test_text_is_wrapped(name: str) -> None:
    lines = _pages()[name].splitlines()

    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_what_the_page_adds_is_about_settings() -> None:
    assert set(_module("settings_page").DETAILS) <= {
        setting.name for setting in described(ServerSettings)
    }


def test_every_command_has_an_example() -> None:
    sections = re.split(r"^## mlserve ", _pages()["commands.md"], flags=re.MULTILINE)[1:]

    assert sections
    for section in sections:
        assert re.search(r"^For example:\n\n```\n.*mlserve ", section, re.MULTILINE), section


@pytest.mark.parametrize("name", PAGES)
def test_each_row_of_a_table_has_the_columns_of_the_table(name: str) -> None:
    rows = [line for line in _pages()[name].splitlines() if line.startswith("|")]
    assert rows
    columns = 0
    for row, line in enumerate(rows):
        if row + 1 < len(rows) and re.fullmatch(r"(\| --- )+\|", rows[row + 1]):
            columns = line.count("|")
        assert line.count("|") == columns, line


def test_an_example_is_one_command_in_a_shell() -> None:
    for block in re.findall(
        r"^For example:\n\n```\n(.*?)^```", _pages()["commands.md"], re.M | re.S
    ):
        for line in block.replace("\\\n", "").splitlines():
            assert re.match(r"(\w+=\$\()?mlserve |ls |sudo |promtool ", line), line
