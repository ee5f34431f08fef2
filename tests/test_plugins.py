"""Plugins as a user meets them: installed, missing something, broken, or of the same name."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from mlserve import plugins
from mlserve.distributions import install_command
from tests.harness import fleet
from tests.harness.echo import put_version
from tests.harness.plugin_site import Site

pytestmark = pytest.mark.server
_CHECKOUT = Path(__file__).parents[1]

HALF = """
from mlserve.backend import Backend
from mlserve.plugins import hookimpl

class Half(Backend):
    name = "toy"

@hookimpl
def mlserve_backend():
    return Half
"""


BACKEND = """
from mlserve.backend import Backend
from mlserve.plugins import hookimpl

class Toy(Backend):
    name = "{name}"
    summary = "A toy."
    install_hint = "pip install toy-runtime"
    requires = {requires!r}

    def export(self, model, into):
        return ()

    def load(self, artifact, options):
        raise NotImplementedError

@hookimpl
def mlserve_backend():
    return Toy
"""


def backend(name: str, requires: tuple[str, ...] = ()) -> str:
    """The source of a plugin with one backend."""
    return BACKEND.format(name=name, requires=requires)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


@pytest.fixture
def parts(site: Site) -> Callable[[], dict[str, dict[str, object]]]:
    """What `mlserve plugins --output json` lists, by name; backends win over sources."""

    def read() -> dict[str, dict[str, object]]:
        done = site.run("-m", "mlserve", "plugins", "--output", "json")
        assert done.returncode == 0, done.stderr
        listed = sorted(json.loads(done.stdout), key=lambda part: part["kind"] == "backend")
        return {part["name"]: part for part in listed}

    return read


def test_a_plugin_is_found_by_its_metadata(site, parts) -> None:
    site.add("toy-plugin", "toy", backend("toy"))

    toy = parts()["toy"]

    assert (toy["kind"], toy["status"], toy["distribution"]) == (
        "backend",
        "installed",
        "toy-plugin",
    )
    assert (toy["about"], toy["fix"]) == ("A toy.", None)


def test_a_runtime_that_is_absent_is_missing_with_its_fix(site, parts) -> None:
    site.add("toy-plugin", "toy", backend("toy", ("toy_runtime", "json")))

    toy = parts()["toy"]

    assert (toy["status"], toy["missing"]) == ("missing", ["toy_runtime"])
    assert toy["fix"] == "pip install toy-runtime"


def test_a_module_that_the_plugin_itself_needs_is_missing(site, parts) -> None:
    site.add("toy-plugin", "toy", "import toy_dependency\n")

    toy = parts()["toy"]

    assert (toy["kind"], toy["status"], toy["missing"]) == ("plugin", "missing", ["toy_dependency"])
    assert "needs the module 'toy_dependency', which is not installed" in toy["error"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "does not load: ZeroDivisionError: division by zero"),
        (
            "import toy_plugin.gone",
            "does not load: ModuleNotFoundError: No module named 'toy_plugin.gone'",
        ),
        ("raise SystemExit(3)", "does not load: SystemExit: 3"),
        ("def broken(:", "does not load: SyntaxError: "),
        ("", "implements no hook of mlserve"),
        (
            "from mlserve.plugins import hookimpl\n@hookimpl\ndef mlserve_backends(): pass",
            "does not load: PluginValidationError: unknown hook 'mlserve_backends'",
        ),
        (
            "from mlserve.plugins import hookimpl\n@hookimpl\ndef mlserve_backend(name): pass",
            "does not load: PluginValidationError: ",
        ),
        (
            "from mlserve.plugins import hookimpl\n@hookimpl\ndef mlserve_backend(): return 1",
            "gives 1 as its backend, which is not a subclass of Backend",
        ),
        (
            "from mlserve.plugins import hookimpl\n@hookimpl\ndef mlserve_backend(): 1 / 0",
            "fails in mlserve_backend: ZeroDivisionError",
        ),
        (
            "from mlserve.plugins import hookimpl as h\n@h\ndef mlserve_model_sources(): yield 1",
            "gives 1 as a model source, which is not a ModelSource",
        ),
        (
            HALF,
            "provides a backend that cannot be created: TypeError: ",
        ),
        (
            HALF.replace("backend", "launcher").replace("Backend", "Launcher"),
            "provides a launcher that cannot be created: TypeError: ",
        ),
        (
            "from mlserve.plugins import hookimpl\n@hookimpl\ndef mlserve_launcher(): return 1",
            "gives 1 as its launcher, which is not a subclass of Launcher",
        ),
        (
            "from mlserve.plugins import hookimpl\n@hookimpl\ndef mlserve_launchers(): pass",
            "does not load: PluginValidationError: unknown hook 'mlserve_launchers'",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_hurts_nobody_else(site, parts, source, error) -> None:
    site.add("toy-plugin", "toy", source)
    site.add("good-plugin", "good", backend("good"))

    found = parts()

    assert found["toy"]["status"] == "broken"
    assert f"the plugin 'toy' of toy-plugin {error}" in found["toy"]["error"]
    assert found["toy"]["fix"].startswith("reinstall or uninstall toy-plugin")
    assert found["good"]["status"] == "installed"


def test_a_backend_of_another_name_than_its_plugin_is_broken(site, parts) -> None:
    site.add("toy-plugin", "toy", backend("doll"))

    toy = parts()["toy"]

    assert toy["error"] == "the plugin 'toy' of toy-plugin gives a backend named 'doll'"
    assert toy["fix"] == "the entry point and the backend must have the same name"


def test_a_launcher_is_listed_and_one_of_a_name_of_mlserve_is_broken(site, parts) -> None:
    site.add("fleet-plugin", "fleet", fleet.plugin("fleet_runtime"))
    own = "from mlserve.launch.launchers import Native\nfrom mlserve.plugins import hookimpl"
    site.add("native-plugin", "native", f"{own}\n@hookimpl\ndef mlserve_launcher(): return Native")

    found = parts()

    listed = found["fleet"]
    assert (listed["kind"], listed["status"], listed["about"]) == (
        *("launcher", "missing", "A replica behind an address."),
    )
    assert (listed["missing"], listed["fix"]) == (["fleet_runtime"], "pip install fleet")
    assert "'native', as one of mlserve's own is" in found["native"]["error"]


@pytest.mark.parametrize(
    ("more", "code", "error"),
    [
        (("--launcher", "toy"), 3, "the plugin 'toy' of toy-plugin does not load: ZeroDivision"),
        (("--launcher", "echo"), 2, "the plugin 'echo' of mlserve-echo provides no launcher"),
        (("--launcher", "fleeet"), 2, "hint: did you mean --launcher fleet?"),
        (("--launcher", "needy"), 3, "the needy launcher needs needy_runtime, which is not inst"),
        (("--launcher", "fleet", "--max-queue", "7"), 3, "fails in require: RuntimeError: no se"),
        (("--launcher", "native", "--replicas", "2"), 2, "hint: add --launcher ray, or leave it"),
    ],
)
def test_asking_for_a_launcher_that_cannot_start(
    site, tmp_path: Path, more: tuple[str, ...], code: int, error: str
) -> None:
    site.add("toy-plugin", "toy", "1 / 0")
    site.add("fleet-plugin", "fleet", fleet.plugin())
    needy = fleet.plugin("needy_runtime").replace('name = "fleet"', 'name = "needy"')
    site.add("needy-plugin", "needy", needy)
    put_version(tmp_path / "m" / "1")

    up = site.run("-m", "mlserve", "up", "--path", str(tmp_path / "m"), *more)

    assert up.returncode == code
    assert error in up.stderr
    assert "hint: " in up.stderr
    assert "Traceback" not in up.stderr


def test_a_launcher_that_is_not_installed_has_its_install_command(site) -> None:
    code = "import importlib.metadata as m; m.entry_points = lambda **_: ()\n"
    code += "from mlserve import plugins; plugins.launcher('ray')"

    done = site.run("-c", code)

    assert "NotFound: the launcher 'ray' is not installed" in done.stderr


def test_a_name_of_two_distributions_names_both_and_hurts_nobody_else(site, parts) -> None:
    site.add("toy-plugin", "toy", backend("toy"))
    site.add("toy-other", "toy", backend("toy"))
    site.add("good-plugin", "good", backend("good"))

    found = parts()

    assert found["toy"]["status"] == "broken"
    assert "used by two distributions: toy-other and toy-plugin" in found["toy"]["error"]
    assert found["toy"]["fix"] == "uninstall one of the two"
    assert found["good"]["status"] == "installed"


@pytest.mark.parametrize(
    ("source", "code", "error"),
    [
        ("1 / 0", 3, "error: the plugin 'toy' of toy-plugin does not load: ZeroDivisionError"),
        ("import toy_dependency", 3, "error: the plugin 'toy' of toy-plugin needs the module"),
    ],
)
def test_asking_for_a_broken_plugin_is_exit_code_3(site, tmp_path, source, code, error) -> None:
    site.add("toy-plugin", "toy", source)
    (tmp_path / "m" / "1").mkdir(parents=True)

    up = site.run("-m", "mlserve", "up", "--backend", "toy", "--path", str(tmp_path / "m"))

    assert up.returncode == code
    assert error in up.stderr
    assert "hint: " in up.stderr
    assert "Traceback" not in up.stderr


@pytest.mark.parametrize(
    ("backend", "error"),
    [
        ("nope", "error: there is no backend 'nope' (installed: "),
        ("models", "error: the plugin 'models' of mlserve-models provides no backend"),
    ],
)
def test_an_unknown_backend_is_a_usage_error(site, tmp_path, backend: str, error: str) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)

    up = site.run("-m", "mlserve", "up", "--backend", backend, "--path", str(tmp_path / "m"))

    assert up.returncode == 2
    assert error in up.stderr
    assert "hint: choose one with --backend" in up.stderr


def test_only_the_plugin_that_is_asked_for_is_imported(site) -> None:
    site.add("toy-plugin", "toy", backend("toy"))
    site.add("loud-plugin", "loud", "print('loud')\n" + backend("loud"))
    code = "from mlserve import plugins; print(plugins.backend('toy').name, *plugins.installed())"

    done = site.run("-c", code)

    assert done.stdout.startswith("toy ")
    assert "loud" in done.stdout.split()
    assert done.stdout.count("loud") == 1


def test_what_can_be_installed_is_listed_as_missing(site) -> None:
    # An environment without mlserve's own plugins: their metadata is not looked at.
    code = "import importlib.metadata as m; m.entry_points = lambda **_: ()\n"
    code += "from mlserve.cli.app import main; main()"

    done = site.run("-c", code, "plugins")

    lines = done.stdout.splitlines()[1:]
    found = {line.split()[0]: (line, then) for line, then in pairwise(lines)}
    assert " missing " in found["tfserving"][0]
    for name in ("models", "onnxruntime", "tfserving"):
        fix = install_command(plugins.KNOWN[name])
        assert found[name][1].startswith("    fix: pip install -e ")
        assert f"fix: {fix}" in " ".join(done.stdout.split())  # a long one is broken in two
        assert f"{_CHECKOUT}/plugins/{name}[" in fix


def test_the_table_says_what_is_wrong_and_the_fix(site) -> None:
    site.add("toy-plugin", "toy", backend("toy", ("toy_runtime",)))

    done = site.run("-m", "mlserve", "plugins")

    header, *rows = done.stdout.splitlines()
    assert header.split() == ["NAME", "STATUS", "KIND", "DISTRIBUTION"]
    [toy] = [number for number, row in enumerate(rows) if row.startswith("toy ")]
    assert rows[toy].split() == ["toy", "missing", "backend", "toy-plugin"]
    assert rows[toy + 1 : toy + 4] == [
        "    A toy.",
        "    not installed: toy_runtime",
        "    fix: pip install toy-runtime",
    ]


HEAVY = (
    "tensorflow",
    "keras",
    "numpy",
    "tensorflow_hub",
    "onnxruntime",
    "grpc",
    "httpx",
)


@pytest.mark.parametrize(
    "code",
    [
        "import mlserve.plugins",
        "from mlserve import plugins; plugins.installed()",
        "from mlserve import plugins; plugins.survey()",
        "from mlserve import plugins; plugins.backend('tfserving')",
        "import mlserve.cli.app",
    ],
)
def test_no_runtime_is_imported(site, code: str) -> None:
    done = site.run("-c", f"{code}\nimport sys; print(*sys.modules)")

    assert done.returncode == 0, done.stderr
    assert set(HEAVY).isdisjoint(done.stdout.split())
