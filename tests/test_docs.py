"""The README and the pages of `docs/`: their commands work, and their links lead somewhere.

On a page with a `bash` block, all blocks in `bash` and `python` are run, in order, as one script in
an empty home. Only the ports are replaced by free ones: 8500 and 8501 may be in use on the machine.
What is shown in any other way (`sh`, indented, in a line of text) is not run, but its options must
exist. A page that shows Python only shows files of `examples/`, whose own tests run them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mlserve.cli.app import app
from tests.documents import ROOT, blocks, code, name, pages, prose
from tests.harness.ports import free_ports

RUNNABLE = ("bash", "python")
LINKED = [
    *pages(),
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docker/**/*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
WITH_COMMANDS = [page for page in pages() if any(kind == "bash" for kind, _ in blocks(page))]
SORRELS = {"README.md": 6, "docs/ask.md": 6}
"""How often a page's commands must at least print the label of the horse."""

_MLSERVE = """\
store_of_home="$MLSERVE_HOME/data/models"
mlserve() {{
    case "$*" in
        up*-port*) command mlserve "$@" ;;
        up*) command mlserve "$@" --grpc-port {grpc} --rest-port {rest} ;;
        doctor) command mlserve doctor || (( $? == 3 )) ;;
        "export --model efficientnet_lite0") export_once tfserving "$store_of_home" "$@" ;;
        "export --backend "*" --model efficientnet_lite0") export_once "$3" "$store_of_home" "$@" ;;
        "export --backend "*" --model efficientnet_lite0 --store "*) export_once "$3" "$7" "$@" ;;
        *) command mlserve "$@" ;;
    esac
}}
export_once() {{
    local kept={exports}/$1 versions="$2/$1/efficientnet_lite0"
    if [ -d "$kept" ]; then
        mkdir -p "$versions"
        cp -r "$kept" "$versions/$(($(ls "$versions" | grep -cx '[0-9]*') + 1))"
    else
        command mlserve "${{@:3}}"
        cp -r "$versions/1" "$kept"
    fi
}}
pip() {{
    local project="${{@: -1}}"
    project="${{project%%\\[*}}"
    local site="$PWD/site"
    python -m pip install -q --no-deps --no-build-isolation --target "$site" "$PWD/$project"
    export PYTHONPATH="$PWD/$project:$site"
}}
"""
"""`mlserve` and `pip` in the scripts.

`doctor` may find that the machine lacks something, as a model hub. `pip install -e DIR[EXTRA]` puts
the project's metadata beside the page's files, and not into the environment of these tests.
Seven pages have the same exports, which take seconds: the first one exports, the others get a copy
of what it wrote, as the next version in their store.
"""


def _script(page: Path, grpc: int, rest: int, exports: Path) -> str:
    """Every bash and python block of a page, in order, as one script."""
    steps = [
        text if language == "bash" else f"python - <<'PYTHON'\n{text}PYTHON\n"
        for language, text in blocks(page)
        if language in RUNNABLE
    ]
    ported = "\n".join(steps).replace("8500", str(grpc)).replace("8501", str(rest))
    return "set -euxo pipefail\n" + _MLSERVE.format(grpc=grpc, rest=rest, exports=exports) + ported


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that holds what a clone holds, so that this one keeps nothing that a page writes."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name != "build":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages have exported so far."""
    return tmp_path_factory.mktemp("exports")


@pytest.mark.tensorflow
@pytest.mark.server
@pytest.mark.timeout(700)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_every_command_of_a_page_works(
    page: Path, checkout: Path, home: Path, exports: Path
) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", _script(page, *free_ports(2), exports)],
            cwd=checkout,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        subprocess.run([sys.executable, "-m", "mlserve", "down", "--all"], check=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sorrel") >= SORRELS.get(name(page), 0), done.stdout
    for expected in _expected(page):
        assert re.search(expected, done.stdout), (expected, done.stdout)
    assert not list((home / "state").rglob("*.json")), "the page leaves a server running"


def _expected(page: Path) -> list[str]:
    """What a page says behind a curl command that it prints, as `# {"outputs": ["sorrel"]}`."""
    answers = [
        answer
        for language, text in blocks(page)
        if language == "bash"
        for answer in re.findall(r"^(?:curl| ).*\s# (\{.*\})$", text, re.MULTILINE)
    ]
    return [r"\s*".join(map(re.escape, re.findall(r'"[^"]*"|\S', answer))) for answer in answers]


def test_both_forms_of_an_answer_are_shown_and_so_expected() -> None:
    assert set(SORRELS) <= set(map(name, WITH_COMMANDS))
    shown = "".join(pattern for page in WITH_COMMANDS for pattern in _expected(page))
    assert '"outputs"' in shown
    assert '"predictions"' in shown


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_option_that_a_page_shows_exists(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for words in _commands(page):
        command, rest = group, words
        while rest and rest[0] in getattr(command, "commands", ()):
            command, rest = command.commands[rest[0]], rest[1:]
        assert command is not group, words
        command.make_parser(command.context_class(command)).parse_args(rest)


@pytest.mark.parametrize("page", WITH_COMMANDS[1:], ids=name)
def test_a_page_names_the_export_that_it_means(page: Path) -> None:
    """The pages are read in one home: what the pages before have exported may be meant as well."""
    names_backend = {
        words[words.index("--model") + 1]
        for words in _run(page, "export")
        if {"--backend", "--model"} <= set(words)
    }
    for words in _run(page, "up", "build", "deploy", "tune", "compare"):
        if {"--store", "--path"} & set(words) or any("127.0.0.1" in word for word in words):
            continue  # a folder of the page's own; servers that run
        assert "--model" in words, words
        model = words[words.index("--model") + 1]
        assert model not in names_backend or {"compare", "--backend"} & set(words), words


def _run(page: Path, *commands: str) -> list[list[str]]:
    """The commands that the test runs on a page, where no `mlserve.toml` of its own says more."""
    shown = "\n".join(text for language, text in blocks(page) if language == "bash")
    if "> mlserve.toml" in shown:
        return []
    lines = shown.replace("\\\n", " ").splitlines()
    found = [re.search(r"^mlserve ([a-z]+\b[^#|;&<>]*)", line) for line in lines]
    return [
        words for command in found if command if (words := shlex.split(command[1]))[0] in commands
    ]


def _commands(page: Path) -> list[list[str]]:
    """The words after `mlserve` of each command that a page shows, wherever it does."""
    lines = code(page).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(mlserve [a-z][^`]*)`", prose(page).replace("\n", " "))
    parts = [part for line in lines for part in re.split(r"&&|[;|<>]| #", line)]
    found = [re.search(r"^.*(?<![\w-])mlserve ([a-z]+\b.*)$", part) for part in parts]
    return [shlex.split(command[1]) for command in found if command]


@pytest.mark.parametrize("page", dict.fromkeys(LINKED), ids=name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    anchors: Counter[str] = Counter()
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text()))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{anchors[anchor]}" if anchors[anchor] else anchor)
        anchors[anchor] += 1
    return found


def test_the_page_about_web_frameworks_shows_the_examples_that_are_run() -> None:
    page = ROOT / "docs" / "web-frameworks.md"
    shown = [text for language, text in blocks(page) if language == "python"]
    run = [path.read_text() for path in (ROOT / "examples" / "web").rglob("*.py")]

    assert len(shown) > 4
    for text in shown:
        assert any(text.strip() in source for source in run), text


def test_an_anchor_is_made_as_github_does(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `mlserve up`: a, b\n\n## Same\n\n```\n# no heading\n```\n\n## Same\n")
    assert _anchors(page) == {"mlserve-up-a-b", "same", "same-1"}


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve()
        for link in re.findall(r"\]\(([^)\s:]+)\)", index.read_text())
    }
    assert set(pages()) - {index} <= linked
