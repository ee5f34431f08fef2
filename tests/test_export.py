"""`mlserve.export.export`: from a request to a published artifact, with the echo plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve import plugins
from mlserve.errors import ExportError, NotFound, PluginError, UsageError
from mlserve.export import export
from mlserve.pipeline import Activation, Exif, ImagePipeline
from mlserve.sources import ModelRequest
from mlserve.store import Store
from mlserve.tensors import DType, TensorSpec

ABSENT_PLUGIN = """
from mlserve.plugins import hookimpl
from mlserve.sources import ModelSource

class Source(ModelSource):
    name = "needy"
    summary = "A source that needs a package."
    install_hint = "pip install needy[all]"
    models = ("needy", "half")
    requires = ("package_that_is_absent",)

    def accepts(self, request):
        return request.model in self.models

    def open(self, request, progress):
        raise AssertionError("never called")

class Broken(Source):
    models = ("broken",)
    requires = ("needy_dependency",)

    def open(self, request, progress):
        import needy_dependency

@hookimpl
def mlserve_model_sources():
    return [Source(), Broken()]
"""
BROKEN_PLUGIN = "raise RuntimeError('this plugin is broken')\n"
InstallPlugin = Callable[[str, str], Path]


@pytest.fixture
def request_echo() -> ModelRequest:
    """A request for the model `echo`, which the installed echo plugin gives."""
    return ModelRequest("echo")


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallPlugin]:
    """Installs a plugin of that name and code, as pip would, for the length of the test."""

    def install(name: str, code: str) -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"mlserve_{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mlserve-{name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[mlserve]\n{name} = plugin_{name}\n")
        (site / f"plugin_{name}.py").write_text(code)
        monkeypatch.setattr(sys, "path", [str(site), *sys.path])
        plugins.load.cache_clear()
        return site

    yield install
    plugins.load.cache_clear()


def test_an_export_is_published_with_its_manifest_and_labels(
    store: Store, request_echo: ModelRequest
) -> None:
    seen: list[str] = []
    artifact = export(
        request_echo, "echo", store=store.root, progress=lambda what, *_: seen.append(what)
    )
    assert artifact == store.find("echo", "echo", 1)
    assert artifact.manifest is not None
    assert artifact.manifest.backend == "echo"
    assert artifact.labels()[0] == "sorrel"
    assert [signature.name for signature in artifact.manifest.signatures] == [
        "serving_default",
        "top_k",
        "ranking",
    ]
    assert sorted(path.name for path in artifact.path.iterdir()) == [
        "echo.json",
        "labels.txt",
        "mlserve.json",
    ]
    assert seen == [
        "importing the echo runtime",
        "opening echo",
        "echo",
        "writing echo for echo",
    ]


def test_the_next_version_is_one_more_than_the_highest(
    store: Store, request_echo: ModelRequest
) -> None:
    assert export(request_echo, "echo", store=store.root, version=7).version == 7
    assert export(request_echo, "echo", store=store.root).version == 8


def test_a_version_that_is_there_is_refused_before_any_work(
    store: Store, request_echo: ModelRequest
) -> None:
    export(request_echo, "echo", store=store.root, version=2)
    seen: list[str] = []
    with pytest.raises(ExportError, match=r"version 2 is there already: .*/2$"):
        export(
            request_echo,
            "echo",
            store=store.root,
            version=2,
            progress=lambda what, *_: seen.append(what),
        )
    assert seen == []


@pytest.mark.parametrize("version", [-3, 2**63])
def test_a_version_is_not_negative_and_not_too_large(
    store: Store, request_echo: ModelRequest, version: int
) -> None:
    with pytest.raises(UsageError, match="is not a version number"):
        export(request_echo, "echo", store=store.root, version=version)


def test_0_is_a_version_and_the_next_one_is_1(store: Store, request_echo: ModelRequest) -> None:
    zero = export(request_echo, "echo", store=store.root, version=0)
    assert (zero.version, zero.path.name) == (0, "0")
    assert store.versions("echo", "echo") == [0]
    assert store.find("echo", "echo", 0).path == zero.path
    with pytest.raises(ExportError, match="version 0 is there already"):
        export(request_echo, "echo", store=store.root, version=0)
    assert export(request_echo, "echo", store=store.root).version == 1
    assert store.find("echo", "echo").version == 1


@pytest.mark.server
def test_exports_at_the_same_time_take_different_numbers(
    store: Store, request_echo: ModelRequest
) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(export, request_echo, "echo", store=store.root) for _ in range(16)]
        numbers = sorted(future.result().version for future in running)
    assert numbers == list(range(1, 17))
    assert store.versions("echo", "echo") == numbers


@pytest.mark.server
def test_of_exports_with_one_number_at_the_same_time_one_wins(
    store: Store, request_echo: ModelRequest
) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [
            pool.submit(export, request_echo, "echo", store=store.root, version=3) for _ in range(8)
        ]
        errors = [future.exception() for future in running]
    assert sum(error is None for error in errors) == 1
    assert all(isinstance(error, ExportError | None) for error in errors)
    assert store.versions("echo", "echo") == [3]
    assert store.find("echo", "echo").labels()


def test_an_unknown_model_names_the_known_ones_and_the_way_on(store: Store) -> None:
    with pytest.raises(NotFound, match=r"no model source knows the model 'hors' .*echo") as unknown:
        export(ModelRequest("hors"), "echo", store=store.root)
    assert "--weights FILE" in (unknown.value.hint or "")
    assert not store.root.exists()


def test_a_broken_plugin_is_named_when_no_other_knows_the_model(
    store: Store, install_plugin: InstallPlugin, request_echo: ModelRequest
) -> None:
    install_plugin("broken", BROKEN_PLUGIN)
    with pytest.raises(NotFound, match="this plugin is broken"):
        export(ModelRequest("hors"), "echo", store=store.root)
    assert export(request_echo, "echo", store=store.root).version == 1


@pytest.mark.parametrize(
    "request_", [ModelRequest("m", weights="no.keras"), ModelRequest("echo", labels=Path("no.txt"))]
)
def test_a_file_that_is_absent_is_a_usage_error(store: Store, request_: ModelRequest) -> None:
    with pytest.raises(UsageError, match=r"(--weights no.keras|--labels no.txt): there is no such"):
        export(request_, "echo", store=store.root)


def test_labels_are_checked_before_anything_is_imported(
    install_plugin: InstallPlugin, tmp_path: Path
) -> None:
    install_plugin("needy", ABSENT_PLUGIN)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\n\nb\n")
    with pytest.raises(ExportError, match=r"line 2 of .* is blank"):
        export(ModelRequest("needy", labels=labels), "echo")


def test_an_absent_package_is_told_with_the_command_that_installs_it(
    store: Store, install_plugin: InstallPlugin
) -> None:
    install_plugin("needy", ABSENT_PLUGIN)
    with pytest.raises(PluginError, match="needs package_that_is_absent, which is not") as absent:
        export(ModelRequest("needy"), "echo", store=store.root)
    assert absent.value.hint == "pip install needy[all]"


def test_a_broken_package_is_not_called_absent(store: Store, install_plugin: InstallPlugin) -> None:
    site = install_plugin("needy", ABSENT_PLUGIN)
    (site / "needy_dependency.py").write_text("import a_module_that_it_forgot_to_require\n")
    with pytest.raises(PluginError, match=r"installed but broken: .*forgot_to_require"):
        export(ModelRequest("broken"), "echo", store=store.root)
    assert store.versions("echo", "broken") == []


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"inputs": (TensorSpec("x", DType.FLOAT32, (None, 4)),)}, "--input"),
        ({"allow_pickle": True}, "--allow-pickle"),
        (
            {"trusted_types": ("a.B",), "allow_version_mismatch": True},
            "--trusted-types and --allow-version-mismatch",
        ),
    ],
)
def test_an_option_that_the_source_would_ignore_is_refused(
    given: dict[str, Any], options: str, store: Store, request_echo: ModelRequest
) -> None:
    why = f"{options.partition(' ')[0]} has no effect on echo, which the model source .* opens"
    with pytest.raises(UsageError, match=why) as refused:
        export(replace(request_echo, **given), "echo", store=store.root)
    assert refused.value.hint == f"leave {options} out"
    assert store.versions("echo", "echo") == []


# `--exif apply`: an older mlserve cannot miss it, and a backend that cannot do it says so.

PLAIN = ImagePipeline(8, 8, 1.0, 0.0, Activation.SOFTMAX, 3)


def test_a_pipeline_that_applies_exif_has_a_version_that_an_older_mlserve_refuses() -> None:
    turning = replace(PLAIN, exif=Exif.APPLY)

    assert (PLAIN.to_json()["version"], turning.to_json()["version"]) == (1, 2)
    assert ImagePipeline.from_json(turning.to_json()) == turning
    with pytest.raises(ValueError, match="version 4 is not known"):
        ImagePipeline.from_json({**turning.to_json(), "version": 4})


def test_an_older_manifest_ignores_exif() -> None:
    older = {key: value for key, value in PLAIN.to_json().items() if key != "exif"}

    assert ImagePipeline.from_json(older) == PLAIN


@pytest.mark.parametrize("backend", ["echo", "tfserving"])
def test_a_backend_that_cannot_apply_exif_refuses_at_once_and_says_why(
    backend: str, store: Store, request_echo: ModelRequest
) -> None:
    why = {"echo": "no step for it", "tfserving": "TensorFlow has no operation that reads EXIF"}

    with pytest.raises(UsageError, match=why[backend]) as refused:
        export(replace(request_echo, exif=Exif.APPLY), backend, store=store.root)

    assert "--backend onnxruntime" in (refused.value.hint or "")
    assert store.versions(backend, "echo") == []
