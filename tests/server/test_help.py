"""The server's program prints its help, whatever stands in the texts of its options."""

from __future__ import annotations

import argparse

import pytest

from mlserve.load_options import LoadOptions
from mlserve.options import Options, add_flags, described
from mlserve.server.__main__ import parse
from mlserve.settings import ServerSettings


def test_the_server_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(["--help"])
    said = capsys.readouterr().out
    for item in (*described(LoadOptions), *described(ServerSettings)):
        assert f"{item.flag} " in said


@pytest.mark.parametrize("options", Options.__subclasses__())
def test_a_parser_shows_the_words_of_every_option(options: type[Options]) -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawTextHelpFormatter)
    add_flags(parser, options)
    said = parser.format_help()
    for item in described(options):
        assert item.help in said
