"""What `mlserve.server.mount` checks before anything is loaded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlserve.server
from mlserve import backend_choice
from mlserve.errors import MlserveError, NotFound, PluginError, UsageError
from tests.conftest import Export


def _refused(kind: type[MlserveError], *models: str, **options: Any) -> str:
    """The error's message, and its hint as a traceback shows it."""
    with pytest.raises(kind) as caught:
        mlserve.server.mount(*models, **options)
    assert caught.value.__notes__ == [f"hint: {caught.value.hint}"]
    return f"{caught.value}\n{caught.value.hint}"


def test_the_only_exported_model_is_taken_if_none_is_named(export: Export) -> None:
    export("m")

    assert mlserve.server.mount().models == ("m",)
    assert repr(mlserve.server.mount()) == "MountedServer('m')"


def test_several_models_can_be_named(export: Export) -> None:
    export("one")
    export("two")

    assert mlserve.server.mount("one", "two", "one").models == ("one", "two")
    text = _refused(UsageError)
    assert "2 exported models fit: one (echo), two (echo)" in text


def test_a_folder_of_versions_can_be_named(export: Export) -> None:
    path = export("m")

    assert mlserve.server.mount(path=str(path)).models == ("m",)
    assert mlserve.server.mount("other", path=path).models == ("other",)
    assert "the folder of one model" in _refused(UsageError, "one", "two", path=path)
    assert "no version 9" in _refused(NotFound, path=path, version=9)


def test_a_split_is_of_one_model(export: Export) -> None:
    export("one")
    export("two")
    text = _refused(UsageError, "one", "two", split="v2=5%")
    assert "split is for a version of one model, and 2 are named" in text
    assert "no version 2" in _refused(NotFound, "one", split="v2=5%")


def test_a_model_that_is_not_there_is_named_with_the_way_to_get_it(export: Export) -> None:
    export("present")

    text = _refused(NotFound, "presen", backend="echo")
    assert "no model 'presen' has been exported for the backend 'echo'" in text
    assert "did you mean --backend echo --model present?" in text


def test_an_unknown_backend_is_an_error(export: Export) -> None:
    export("m")

    assert "there is no backend 'ecko'" in _refused(NotFound, "m", backend="ecko")


def test_a_setting_that_does_not_exist_is_an_error_with_the_nearest(export: Export) -> None:
    export("m")

    text = _refused(UsageError, max_quue=3)
    assert "'max_quue' is not a setting of a server" in text
    assert "did you mean max_queue?" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_queue": -1}, "--max-queue must be at least 0, not -1"),
        ({"max_queue": "many"}, "'many' is not a valid value of --max-queue"),
        ({"threads": 0}, "--threads must be at least 1, not 0"),
        ({"provider": "cuda"}, "the backend 'echo' has no --provider"),
        ({"token_file": "/nowhere/token"}, "/nowhere/token"),
        ({"version": -1}, "-1 is not a version number"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(
    export: Export, settings: dict[str, Any], message: str
) -> None:
    export("m")

    assert message in _refused(UsageError, **settings)


@pytest.mark.parametrize("name", ["tls_cert", "max_connections", "header_timeout", "log_format"])
def test_settings_of_the_port_belong_to_the_server_around_it(export: Export, name: str) -> None:
    export("m")

    text = _refused(UsageError, **{name: "1"})
    assert f"{name} cannot be set here" in text


def test_a_missing_package_is_named_with_the_way_to_install_it(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("m")
    monkeypatch.setattr(backend_choice, "absent_packages", lambda *_: ["starlette"])

    text = _refused(PluginError)
    assert "starlette not installed" in text
    assert "[server]" in text


@pytest.mark.server
def test_only_a_server_that_is_made_loads_what_it_needs(export: Export) -> None:
    export("m")
    code = (
        "import sys, mlserve.server\n"
        "mlserve.server.mount\n"
        "loaded = {'numpy', 'starlette', 'uvicorn', 'google.protobuf'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "mlserve.server.mount()\n"
        "loaded = {'uvicorn', 'httptools', 'grpc', 'httpx'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_lists_the_settings_that_do_not_hold() -> None:
    from mlserve.asgi.mount import OF_THE_PORT

    page = (Path(__file__).parents[2] / "docs" / "web-frameworks.md").read_text()
    for name in OF_THE_PORT:
        assert f"`{name}`" in page


def test_a_websocket_is_refused(export: Export) -> None:
    export()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(mlserve.server.mount()({"type": "websocket"}, receive, send))
    assert sent == ["websocket.close"]
