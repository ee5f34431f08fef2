"""Options of how a model is loaded: what stands for the server's own choice."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.config.servers import read_config
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.options import add_flags, described

NUMBERS = ("threads", "instances", "processes")


@pytest.mark.parametrize("name", NUMBERS)
def test_auto_is_the_choice_of_the_server(name: str) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, LoadOptions)
    assert vars(parser.parse_args([f"--{name}=auto"]))[name] is None
    assert LoadOptions.from_json({name: "auto"}) == LoadOptions()
    assert [item.metavar for item in described(LoadOptions) if item.name == name] == ["N|auto"]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_command_takes_it(name: str, home: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["tune", "--show", f"--{name}", "auto"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    wrong = run(app, ["tune", "--show", f"--{name}", "many"], catch_exceptions=False)
    assert wrong.exit_code == 2
    assert f"'many' is not a valid value of --{name}" in wrong.stderr
    assert "give a whole number or auto" in wrong.stderr


def test_a_model_of_a_file_may_leave_it_to_the_server_again(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "mlserve.toml"
    path.write_text(
        '[up]\nprocesses = "auto"\n'
        "[servers.s]\nprocesses = 4\n[servers.s.models.a]\n"
        '[servers.s.models.b]\nprocesses = "auto"\n'
    )
    one, other = read_config(path).server("s").models
    assert (one.options.processes, other.options.processes) == (4, None)
    shown = CliRunner().invoke(app, ["config", "show", "--config", str(path)])
    assert shown.exit_code == 0, shown.stderr
    path.write_text('[servers.s]\nprocesses = "many"\n')
    with pytest.raises(UsageError, match="processes must be a whole number"):
        read_config(path)
