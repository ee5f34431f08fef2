"""`mlserve compare` on tables: two servers, one with a fault, and rows of all kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.compare.rows import AskedTarget, require_same_places
from mlserve.errors import ExitCode, UsageError
from mlserve.rows.asking import Asking, ReadyRow
from mlserve.rows.table import Place
from mlserve.store import Store
from mlserve.tensors import Signature
from tests.harness.command import Outcome
from tests.harness.echo import manifest, put_version

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shifted(start_echo: Any) -> Any:
    """A server whose sums are 0.5 too large."""
    return start_echo(offset=0.5)


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


def _compare(*words: object) -> Outcome:
    """Run the command in this process."""
    line = ["compare", *map(str, words)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    return Outcome(done.exit_code, done.stdout, done.stderr)


def _found(*words: object, code: int = 0) -> Any:
    done = _compare(*words, "--output", "json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


TWO = ("--signature", "two", "--runs", 2)
PAIRS = "b,a\n2,1\n4,3\n"


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("rows.csv", PAIRS, [2, 3]),
        ("rows.jsonl", '\n{"a": 1, "b": 2}\n{"b": 4, "a": 3}\n', [2, 3]),
        ("rows.json", '[{"a": 1, "b": 2}, {"a": 3, "b": 4}]', [None, None]),
        ("request.json", '{"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}', [None, None]),
    ],
)
def test_another_value_is_named_by_its_row_and_output(
    echo: Any, shifted: Any, table: Any, name: str, content: str, lines: list[int | None]
) -> None:
    path = table(name, content)

    found = _found(echo.grpc, shifted.endpoint("rest"), path, *TWO, code=ExitCode.DIFFERENT)

    assert (found["same"], found["rows"], found["refused_by_all"]) == (False, 2, 0)
    assert found["files"] == [str(path)]
    reference, other = found["targets"]
    assert (reference["name"], reference["outputs"]) == (echo.grpc, {})
    assert other["outputs"] == {
        "sum": {
            "rows_that_differ": 2,
            "difference": {
                "largest": pytest.approx(0.5 / 3),
                "mean": pytest.approx((0.5 / 3 + 0.5 / 7) / 2),
            },
        },
        "product": {"rows_that_differ": 0, "difference": {"largest": 0.0, "mean": 0.0}},
    }
    assert [(item["row"], item["line"]) for item in found["problems"]] == [
        *zip([1, 2], lines, strict=True)
    ]
    first = found["problems"][0]
    assert (first["target"], first["output"], first["value"], first["reference"]) == (
        shifted.endpoint("rest"),
        "sum",
        3.5,
        3.0,
    )
    assert first["what"] == "sum: 3.5, the reference 3.0 (relative difference 0.17)"
    for target in (reference, other):
        assert 0 < target["latency_ms"]["p50"] <= target["latency_ms"]["p99"]


def test_the_text_names_the_file_the_row_and_the_line(echo: Any, shifted: Any, table: Any) -> None:
    path = table("rows.csv", PAIRS)

    done = _compare(echo.grpc, shifted.grpc, path, *TWO)

    assert done.returncode == ExitCode.DIFFERENT
    said = " ".join(done.stdout.split())
    assert f"{shifted.grpc} sum 2 0.17 0.12" in said
    assert f"{path}, row 2 (line 3)" in said
    assert "sum: 7.5, the reference 7.0 (relative difference 0.071)" in said
    assert done.stdout.splitlines()[-1] == "different: 2 of 2 rows, 2 targets, tolerance 0.0001"


def test_the_tolerance_and_the_outputs_decide(echo: Any, shifted: Any, table: Any) -> None:
    both = (echo.grpc, shifted.grpc, table("rows.csv", PAIRS), *TWO)

    assert not _found(*both, "--tolerance", 0.1, code=ExitCode.DIFFERENT)["same"]
    assert _found(*both, "--tolerance", 0.2)["same"]
    assert list(_found(*both, "--outputs", "product")["targets"][1]["outputs"]) == ["product"]


def test_one_row_among_many_batches_is_found(echo: Any, table: Any) -> None:
    """A negative value makes the whole request fail on one server: only its row differs."""
    values = np.arange(400.0)
    values[277] = -1
    path = table("rows.csv", "a\n" + "\n".join(map(str, values)) + "\n")
    words = (echo.grpc, echo.endpoint("rest"), path, "--signature", "fragile", "--runs", 1)

    found = _found(*words, code=ExitCode.DIFFERENT)

    assert found["rows"] == 400
    assert {(item["row"], item["line"], item["output"]) for item in found["problems"]} == {
        (278, 279, None)
    }
    assert all(item["what"].startswith("no answer: ") for item in found["problems"])
    assert found["targets"][1]["outputs"]["sum"]["difference"]["largest"] == 0.0
    assert "(no answer)" in _compare(*words).stdout


def test_a_row_that_all_refuse_agrees(echo: Any, table: Any) -> None:
    path = table("rows.csv", "a,b\n1,2\nx,4\n5,6,7\n")

    done = _compare(echo.grpc, echo.endpoint("rest"), path, *TWO)

    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == "same: 3 rows (2 refused by all), 2 targets, every difference within 0.0001"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.csv", "a,b\nx,1\n", "no target answered any row; bad.csv, line 2: column 'a': 'x'"),
        ("empty.csv", "a,b\n", "empty.csv has no rows to compare"),
        ("a.csv", "a\n1\n", "ENDPOINT: a.csv has no column 'b'"),
        ("no.json", "{", "no.json is not JSON"),
        ("bad.json", '{"inputs": {"a": [1], "c": [1]}}', "no target answered any row; bad.json: "),
    ],
)
def test_what_no_target_can_answer_is_an_error(
    echo: Any,
    table: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
    message: str,
) -> None:
    monkeypatch.chdir(table(name, content).parent)

    done = _compare(echo.grpc, echo.endpoint("rest"), name, *TWO, "--output", "json")

    assert done.returncode == ExitCode.USAGE, done.stderr
    error = json.loads(done.stderr)["error"]
    assert error["message"].startswith(message.replace("ENDPOINT", echo.grpc))
    assert error["hint"]


def test_a_request_without_rows_is_compared_as_a_whole(echo: Any, table: Any) -> None:
    path = table("request.json", '{"inputs": {"x": 5}}')
    words = ("--signature", "identity_int64", "--runs", 1)

    found = _found(echo.grpc, echo.endpoint("rest"), path, *words)

    assert (found["rows"], found["targets"][1]["outputs"]) == (
        1,
        {"y": {"rows_that_differ": 0, "difference": None}},
    )


def test_files_that_two_targets_read_differently_are_an_error() -> None:
    """With numbers in its first line, a file has a header only for a model that knows a name."""
    one, other = (
        AskedTarget(name, Asking(None, 1, 1.0), Signature("f", (), ()), {}, ())  # type: ignore[arg-type]
        for name in ("one", "other")
    )
    lines = [[ReadyRow(Place("rows.csv", 1, line), {})] for line in (1, 2)]

    require_same_places([lines[0], lines[0]], [one, other])
    with pytest.raises(UsageError, match=r"one and other do not read the same rows in rows\.csv"):
        require_same_places(lines, [one, other])


def test_the_report_shows_the_rows(echo: Any, shifted: Any, table: Any, tmp_path: Path) -> None:
    path = table("<b>.csv", PAIRS)

    _compare(echo.grpc, shifted.grpc, path, *TWO, "--report", tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == page.count("</svg>") == 2  # one plot in two widths
    assert "<code>sum</code> differs in 2 of 2 rows; furthest in " in page
    assert "<code>product</code> agrees in every answer, exactly." in page
    assert "There is no manifest of" in page
    assert "&lt;b&gt;.csv, row 2 (line 3)" in page
    assert "<b>" not in page
    assert "different: 2 of 2 rows" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rows.csv", "a.jpg"], "rows.csv is a table and a.jpg is not"),
        (["a.jpg", "--signature", "two"], "--signature does not go with images"),
        (["a.jpg", "--outputs", "sum"], "--outputs does not go with images"),
        (["rows.csv"], "echo@1 is an image classifier, and rows.csv is a table"),
    ],
)
def test_images_and_tables_do_not_mix(
    export: Any,
    table: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    export(1)
    table("a.jpg", "an image")
    monkeypatch.chdir(table("rows.csv", PAIRS).parent)

    done = _compare("echo", "echo", *words, "--output", "json")

    assert done.returncode == ExitCode.USAGE
    error = json.loads(done.stderr)["error"]
    assert error["message"] == message
    assert error["hint"]


def test_a_model_of_tensors_given_images_is_an_error(home: Path, photo: Path) -> None:
    base = Store().base_path("echo", "m")
    written = replace(manifest("m"), pipeline=None, labels_digest=None)
    put_version(base / "1", manifest=written)

    done = _compare("echo", "echo", photo, "--output", "json")

    assert done.returncode == ExitCode.USAGE
    error = json.loads(done.stderr)["error"]
    assert error["message"] == f"echo@1 is a model of tensors, and {photo} is not a table"
    assert "rows.csv" in error["hint"]


def test_a_classifier_s_endpoint_given_a_table_is_an_error(echo: Any, table: Any) -> None:
    done = _compare(echo.grpc, echo.grpc, table("rows.csv", PAIRS))

    assert done.returncode == ExitCode.USAGE
    assert "rows.csv has no column 'image'" in done.stderr


def _put_classifier(version: int, weights: list[float]) -> None:
    """Write a version of the model `rows`: label and scores of two columns."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    info, kinds = make.make_tensor_value_info, onnx.TensorProto
    node = make.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        classlabels_strings=["no", "yes"],
        coefficients=weights,
        intercepts=[0.0, 0.0],
        post_transform="SOFTMAX",
    )
    outputs = [info("label", kinds.STRING, ["N"]), info("scores", kinds.FLOAT, ["N", 2])]
    graph = make.make_graph([node], "g", [info("x", kinds.FLOAT, ["N", 2])], outputs)
    opsets = [make.make_operatorsetid("", 17), make.make_operatorsetid("ai.onnx.ml", 3)]
    folder = Store().base_path("onnxruntime", "rows") / str(version)
    folder.mkdir(parents=True)
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")


def _put_with_constant(version: int, constant: list[float]) -> None:
    """Write a version of the model `constant`: y = x, and the same two numbers for any request."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    info, kinds = make.make_tensor_value_info, onnx.TensorProto
    nodes = [make.make_node("Identity", [one], [other]) for one, other in ("xy", "kc")]
    outputs = [info("y", kinds.FLOAT, ["N"]), info("c", kinds.FLOAT, [2])]
    numbers = make.make_tensor("k", kinds.FLOAT, [2], constant)
    graph = make.make_graph(nodes, "g", [info("x", kinds.FLOAT, ["N"])], outputs, [numbers])
    opsets = [make.make_operatorsetid("", 17)]
    folder = Store().base_path("onnxruntime", "constant") / str(version)
    folder.mkdir(parents=True)
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")


def test_an_output_that_is_not_by_rows_is_compared_whole(home: Path, table: Any) -> None:
    """Two rows, and a constant of two numbers: it has their length by chance."""
    pytest.importorskip("mlserve_onnxruntime")
    _put_with_constant(1, [7.0, 8.0])
    _put_with_constant(2, [7.0, 9.0])

    targets = ("onnxruntime@1", "onnxruntime@2")
    as_rows = _found(*targets, table("two.csv", "x\n1\n2\n"), "--runs", 1, code=8)
    request = table("two.json", '{"inputs": {"x": [1, 2]}}')
    as_request = _found(*targets, request, "--runs", 1, code=8)

    assert [item["row"] for item in as_rows["problems"]] == [1, 2]
    assert {item["output"] for item in as_rows["problems"]} == {"c"}
    assert {(item["value"], item["reference"]) for item in as_rows["problems"]} == {(9.0, 8.0)}
    assert as_request["rows"] == 1
    assert [item["output"] for item in as_request["problems"]] == ["c"]


def test_faults_seeded_into_a_model_are_found(cli: Any, home: Path, table: Any) -> None:
    """Version 2 has another weight than version 1, and version 3 its columns swapped."""
    pytest.importorskip("mlserve_onnxruntime")
    weights = {1: [1.0, 2.0, -1.0, 1.0], 2: [1.0, 2.0, -1.0, 1.01], 3: [2.0, 1.0, 1.0, -1.0]}
    for version, values in weights.items():
        _put_classifier(version, values)
    rows = np.random.default_rng(1).uniform(-2, 2, (200, 2)).round(3)
    lines = "".join(f"{a},{b}\n" for a, b in [*rows, (float("nan"), 1.0)])
    path = table("rows.csv", "a,b\n" + lines)
    targets = [f"onnxruntime@{version}" for version in weights]

    found = cli.json("compare", *targets, path, "--runs", 1, code=ExitCode.DIFFERENT)

    scores = {version: rows @ np.reshape(values, (2, 2)).T for version, values in weights.items()}
    is_yes = {version: each[:, 1] > each[:, 0] for version, each in scores.items()}
    for version in (2, 3):
        problems = [item for item in found["problems"] if item["target"].endswith(f"@{version}")]
        expected = set((np.flatnonzero(is_yes[1] != is_yes[version]) + 1).tolist())
        assert {item["row"] for item in problems if item["output"] == "label"} == expected
        outputs = found["targets"][version - 1]["outputs"]
        assert outputs["label"]["rows_that_differ"] == len(expected)
        assert outputs["scores"]["rows_that_differ"] > 100
        assert 201 not in {item["row"] for item in problems}, "NaN equals NaN"
    label = next(item for item in found["problems"] if item["output"] == "label")
    assert re.fullmatch("label: '(yes|no)', the reference '(yes|no)'", label["what"])
    assert all(target["rss_bytes"] > 1e6 for target in found["targets"])
    assert all(target["ready_seconds"] > 0 for target in found["targets"])
