"""A load option is one field of LoadOptions: the rest of mlserve takes it from there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlserve

_PRELUDE = """
import dataclasses, sys
from pathlib import Path
from mlserve import load_options, options

@dataclasses.dataclass(frozen=True, slots=True)
class LoadOptions(load_options.LoadOptions):
    colour: str | None = dataclasses.field(
        default=None, metadata=options.option(options.HelpPanel.MODEL, "What it looks like.")
    )
    layers: int = dataclasses.field(
        default=3, metadata=options.option(options.HelpPanel.MODEL, "How many.", least=1)
    )

load_options.LoadOptions = LoadOptions  # as if two fields were added to it
load_options.DEFAULT_LOAD_OPTIONS = LoadOptions()
from mlserve.serving import Serving
from mlserve.served_model import ServedModel
options = LoadOptions(colour="red", layers=5)
serving = Serving((ServedModel("echo", "m", Path("/m"), options=options),))
"""
_USES = {
    "an option of up": """
from mlserve.cli.app import main
sys.argv = ["mlserve", "up", "--colour", "red", "--layers", "0"]
main()
""",
    "the server's command line": """
from mlserve.server.__main__ import parse
argv = ["--backend", "echo", "--model", "m", "--base-path", "/m", *options.argv()]
print(options.argv(), parse(argv).models[0].options == options)
""",
    "the record": """
print(Serving.from_json(serving.to_json()) == serving, serving.to_json()["colour"])
""",
    "a container": """
from mlserve.launch.docker.plan import plan_of_built
print(plan_of_built("image", serving).argv)
""",
    "a backend that does not take it": """
from mlserve.launch.launchers import launcher_for
from mlserve import plugins
launcher_for([plugins.backend("echo")], serving, "auto")
""",
}


@pytest.mark.server
@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("an option of up", "--layers must be at least 1, not 0"),
        ("the server's command line", "['--colour=red', '--layers=5'] True"),
        ("the record", "True red"),
        ("a container", "('--colour=red', '--layers=5')"),
        ("a backend that does not take it", "the backend 'echo' has no --colour"),
    ],
)
def test_a_new_option_is_known_everywhere(use: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + _USES[use]], capture_output=True, text=True, check=False
    )

    assert said in done.stdout + done.stderr


def test_an_option_is_named_in_one_file_of_core() -> None:
    """`provider` stands for all of them: the others' names have other meanings too.

    OpenTelemetry's providers are no options.
    """
    root = Path(mlserve.__file__).parent
    name = re.compile(r"(?<!-)\bprovider\b")  # a hint may say --provider

    naming = [path.name for path in root.rglob("*.py") if name.search(path.read_text())]
    naming.remove("tracing.py")

    assert naming == ["load_options.py"]
