"""Which versions the precisions of a ladder stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve.config.servers import read_config
from mlserve.errors import MlserveError
from mlserve.ladder.choice import chosen_ladder
from mlserve.ladder.rungs import Reference
from mlserve.load_options import LadderPolicy, LoadOptions
from mlserve.model_choice import configured_models
from mlserve.precision import Precision
from mlserve.store import Store
from tests.harness.echo import manifest, put_version
from tests.harness.ladder import certificate_of


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., None]:
    """Writes a version in a precision: `put("echo", 1, "int8")`."""

    def put(backend: str, version: int, precision: str, model: str = "m") -> None:
        folder = tmp_path / backend / model / str(version)
        fields = {"precision": Precision(precision), "certificate": certificate_of(0.01)}
        put_version(folder, manifest=replace(manifest(), **fields))

    return put


def choose(store: Path, ladder: str, backend: str | None = None, model: str | None = "m") -> Any:
    return chosen_ladder(LoadOptions(ladder=ladder), backend, model, Store(store))


def refusal(*args: Any) -> MlserveError:
    with pytest.raises(MlserveError) as caught:
        choose(*args)
    return caught.value


def test_the_newest_version_of_each_precision_is_a_rung(put: Any, tmp_path: Path) -> None:
    for version, precision in enumerate(("fp32", "int8", "fp32", "int8", "fp32"), start=1):
        put("echo", version, precision)
    top, options = choose(tmp_path, "int8, fp32")
    assert top == Reference("echo", "m", 5)
    assert options.ladder == "echo/m@4,echo/m@5"


def test_the_options_stay_as_they_are(put: Any, tmp_path: Path) -> None:
    put("echo", 1, "fp32")
    put("echo", 2, "int8")
    asked = LoadOptions(threads=3, ladder="int8,fp32", ladder_policy=LadderPolicy.ANSWER)
    _, options = chosen_ladder(asked, None, None, Store(tmp_path))
    assert options == replace(asked, ladder="echo/m@2,echo/m@1")


def test_a_backend_that_has_all_of_them_goes_first(put: Any, tmp_path: Path) -> None:
    put("echo", 1, "fp32")
    put("echo", 2, "int8")
    put("other", 1, "fp32")
    assert choose(tmp_path, "int8,fp32")[0] == Reference("echo", "m", 1)


def test_of_several_backends_one_must_be_named(put: Any, tmp_path: Path) -> None:
    for backend in ("echo", "other"):
        put(backend, 1, "fp32")
        put(backend, 2, "int8")
    error = refusal(tmp_path, "int8,fp32")
    assert error.message == "2 backends have m in int8 and fp32: echo, other"
    assert "--ladder echo/m@2,echo/m@1" in (error.hint or "")
    assert choose(tmp_path, "int8,fp32", "echo")[1].ladder == "echo/m@2,echo/m@1"


def test_a_choice_between_two_versions_of_one_precision_is_the_users(
    put: Any, tmp_path: Path
) -> None:
    put("echo", 1, "fp32")
    put("one", 2, "int8")
    put("two", 2, "int8")
    error = refusal(tmp_path, "int8,fp32")
    assert error.message == "2 backends have m in int8: one/m@2, two/m@2"


def test_an_absent_precision_is_named_with_those_that_are_there(put: Any, tmp_path: Path) -> None:
    put("echo", 1, "fp32")
    error = refusal(tmp_path, "int8,fp32")
    assert error.message == "m was not exported in int8 (there: fp32)"
    assert error.hint == "mlserve export --model m --precision int8 --calibration DIR"
    error = refusal(tmp_path, "bf16,fp32", "echo")
    assert error.hint == "mlserve export --backend echo --model m --precision bf16"


def test_without_a_name_the_only_model_with_all_rungs_is_meant(put: Any, tmp_path: Path) -> None:
    put("echo", 1, "fp32", model="alone")
    put("echo", 1, "fp32")
    put("echo", 2, "int8")
    assert choose(tmp_path, "int8,fp32", None, None)[0].model == "m"
    put("echo", 2, "int8", model="alone")
    assert (
        "2 models were exported in int8 and fp32"
        in refusal(tmp_path, "int8,fp32", None, None).message
    )


@pytest.mark.parametrize(
    ("ladder", "backend", "model", "message"),
    [
        ("int9,fp32", None, "m", "'int9' is not a valid rung"),
        ("echo/m@2,fp32", None, "m", "'echo/m@2' is not a valid rung"),
        ("echo/m@2,echo/m@1", "other", None, "is not of --backend other"),
        ("echo/m@2,echo/m@1", None, "n", "is not of --model n"),
        ("int8", None, "m", "at least two rungs"),
        ("bf16,fp16", None, None, "no model was exported in bf16 and fp16"),
    ],
)
def test_wrong_rungs_are_named(
    put: Any, tmp_path: Path, ladder: str, backend: str, model: str, message: str
) -> None:
    put("echo", 1, "fp32")
    put("echo", 2, "int8")
    assert message in refusal(tmp_path, ladder, backend, model).message


FILE = """
[servers.line.models.m]
backend = "echo"
store = "STORE"
ladder = "int8,fp32"
ladder_policy = "answer"
"""


def test_a_model_of_a_configuration_file_may_be_on_a_ladder(put: Any, tmp_path: Path) -> None:
    put("echo", 1, "fp32")
    put("echo", 2, "int8")
    file = tmp_path / "mlserve.toml"
    file.write_text(FILE.replace("STORE", str(tmp_path)))
    [model] = configured_models(read_config(file).server("line"))
    assert model.options.ladder == "echo/m@2,echo/m@1"
    assert model.options.ladder_policy is LadderPolicy.ANSWER
    assert model.expected == (1,)
    file.write_text(FILE.replace("STORE", str(tmp_path)).replace("int8", "bf16"))
    with pytest.raises(MlserveError, match=r"mlserve.toml.*m was not exported in bf16"):
        configured_models(read_config(file).server("line"))
