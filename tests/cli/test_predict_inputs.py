"""`mlserve predict --input` and `--json`: one request with any inputs, on both transports."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@PROTOCOLS
def test_a_row_is_name_and_value_lines(cli: Any, echo: Any, protocol: str) -> None:
    words = ("predict", "--input", "a=2", "--input", "b=[3]", "--signature", "two")
    outcome = cli(*words, "--endpoint", echo.endpoint(protocol))

    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert sorted(outcome.stdout.splitlines()) == ["product: 6.0", "sum:     5.0"]


@PROTOCOLS
def test_several_rows_are_a_table(cli: Any, echo: Any, protocol: str) -> None:
    words = ("predict", "--input", "a=[1, 2]", "--input", "b=[3, 4]", "--signature", "two")
    outcome = cli(*words, "--outputs", "sum", "--endpoint", echo.endpoint(protocol))

    assert outcome.stdout == "row\tsum\n1\t4.0\n2\t6.0\n"


@PROTOCOLS
def test_text_and_files_are_strings(cli: Any, echo: Any, photo: Path, protocol: str) -> None:
    where = ("--signature", "identity_bytes", "--endpoint", echo.endpoint(protocol))
    said = cli("predict", "--input", "x=good morning", *where)
    sent = cli("predict", "--input", f"x=@{photo}", *where, "--output", "json").json()

    assert said.stdout == "y: good morning\n"
    assert sent["outputs"]["y"] == [{"b64": "/9j/IGEgcGhvdG8gb2YgYSBob3JzZQ=="}]


def test_an_image_goes_in_as_an_input(cli: Any, echo: Any, photo: Path) -> None:
    outcome = cli("predict", "--input", f"image=@{photo}", "--endpoint", echo.grpc)

    assert outcome.stdout == "output_0: sorrel\n"


def test_labels_with_their_probabilities(cli: Any, echo: Any, photo: Path) -> None:
    words = ("predict", "--input", f"image=@{photo}", "--signature", "top_k")
    outcome = cli(*words, "--endpoint", echo.grpc, "--outputs", "labels,scores")

    assert outcome.stdout == (
        'labels: ["sorrel", "zebra", "ox", "hartebeest", "impala"]\n'
        "scores: [0.5, 0.25, 0.125, 0.0625, 0.03125]\n"
    )


@PROTOCOLS
def test_json_has_everything(cli: Any, echo: Any, protocol: str) -> None:
    endpoint = echo.endpoint(protocol)
    words = ("predict", "--input", "x=[[0.1, NaN]]", "--signature", "identity_float32")
    found = cli(*words, "--endpoint", endpoint, "--output", "json").json()

    assert (found["endpoint"], found["model"], found["version"]) == (endpoint, "inception_v3", 1)
    assert (found["signature"], found["attempts"]) == ("identity_float32", 1)
    assert found["timings_ms"]["total"] > 0
    assert str(found["outputs"]) == "{'y': [[0.1, nan]]}"


def test_arrays_in_and_out(cli: Any, echo: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).random((5, 7), np.float32)
    np.save(tmp_path / "rows.npy", rows)
    answers = tmp_path / "answers.npz"
    words = ("predict", "--input", f"x=@{tmp_path}/rows.npy", "--signature", "identity_float32")
    outcome = cli(*words, "--endpoint", echo.grpc, "--output-file", answers)

    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")
    with np.load(answers) as found:
        assert found["y"].dtype == np.float32
        assert (found["y"] == rows).all()


def test_the_arrays_of_a_file(cli: Any, echo: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", a=np.array([1.0, 2.0]), b=np.array([3.0, 4.0]))
    words = ("predict", "--input", f"@{tmp_path}/all.npz", "--signature", "two")
    outcome = cli(*words, "--endpoint", echo.grpc, "--output", "csv", "--outputs", "product")

    assert outcome.stdout == "row,product\n1,3.0\n2,8.0\n"


@pytest.mark.parametrize(
    "request_",
    [
        {"signature_name": "two", "instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
        {"signature_name": "two", "inputs": {"a": [1, 3], "b": [2, 4]}},
        {
            "parameters": {"signature": "two"},
            "inputs": [
                {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 3]},
                {"name": "b", "shape": [2], "datatype": "FP32", "data": [2, 4]},
            ],
            "outputs": [{"name": "sum"}, {"name": "product"}],
        },
    ],
)
@pytest.mark.parametrize("way", ["--json", "file", "stdin"])
def test_a_whole_request(cli: Any, echo: Any, tmp_path: Path, request_: Any, way: str) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request_))
    words = {"--json": ("--json", path), "file": (path,), "stdin": ("-",)}[way]
    with path.open() as stdin:
        outcome = cli("predict", *words, "--endpoint", echo.grpc, "--output", "json", stdin=stdin)

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.json()["outputs"] == {"sum": [3.0, 7.0], "product": [2.0, 12.0]}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--input", "c=1"), "has no input 'c'", "it takes a: float32[?], b: float32[?]"),
        (("--input", "a=1"), "missing: 'b'", "it takes "),
        (("--input", "a=x", "--input", "b=1"), "the value of 'a' is not JSON: 'x'", "put @ before"),
        (("--input", "a=[[1]]", "--input", "b=1"), "has 2 dimensions", "1 dimension"),
        (("--input", "a=1", "--input", "b=1", "--outputs", "summ"), "'summ'", "did you mean sum?"),
        (("--input", "a"), "--input a has no name", "give NAME=VALUE"),
        (("--input", "a=@gone.npy"), "gone.npy cannot be read: No such file", "the path of a file"),
        (("--json", "gone.json"), "gone.json cannot be read: No such file", "the path of a file"),
        (("--input", "a=1", "--batch", "2"), "--batch does not go with", "predict rows.csv"),
        (("--input", "a=1", "--top-k", "2"), "--top-k does not go with", "image files"),
        (("--input", "a=1", "x.jpg"), "FILE... and --input are given", "--input NAME=@FILE"),
    ],
)
def test_what_is_wrong_is_named_before_it_is_sent(
    echo: Any, words: tuple[str, ...], message: str, hint: str
) -> None:
    where = ("--signature", "two", "--endpoint", echo.grpc)
    refused = CliRunner().invoke(app, ["predict", *words, *where], catch_exceptions=False)

    assert (refused.exit_code, refused.stdout) == (2, "")
    first, second = refused.stderr.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert hint in second


def test_a_signature_that_does_not_exist(cli: Any, echo: Any) -> None:
    words = ("predict", "--input", "a=1", "--signature", "twos", "--endpoint")
    for endpoint in (echo.grpc, echo.endpoint("rest")):
        outcome = cli(*words, endpoint)
        assert outcome.returncode == 2
        assert "has no signature 'twos'" in outcome.stderr
        assert "did you mean two?" in outcome.stderr


@PROTOCOLS
def test_open_inference_asks_any_signature(cli: Any, echo: Any, protocol: str) -> None:
    words = ("predict", "--input", "a=2", "--input", "b=3", "--signature", "two", "--api", "oip")
    outcome = cli(*words, "--endpoint", echo.endpoint(protocol), "--outputs", "sum")

    assert (outcome.stdout, outcome.stderr) == ("sum: 5.0\n", "")


def test_json_errors_are_json(cli: Any, echo: Any) -> None:
    words = ("predict", "--input", "a=x", "--signature", "two", "--endpoint", echo.grpc)
    outcome = cli(*words, "--output", "json")

    assert json.loads(outcome.stderr)["error"]["kind"] == "invalid_input"


def test_outputs_that_are_not_rows_are_not_a_table(cli: Any, echo: Any) -> None:
    words = ("predict", "--input", "x=1", "--signature", "identity_float32")
    outcome = cli(*words, "--endpoint", echo.grpc, "--output", "csv")
    assert outcome.stdout == "row,y\n1,1.0\n"


def test_npz_on_standard_output(echo: Any, tmp_path: Path, cli: Any) -> None:
    words = ("predict", "--input", "x=[1, 2]", "--signature", "identity_int64", "--output", "npz")
    with (tmp_path / "out.npz").open("wb") as out:
        outcome = cli(*words, "--endpoint", echo.grpc, stdout=out)

    assert outcome.returncode == 0, outcome.stderr
    with np.load(io.BytesIO((tmp_path / "out.npz").read_bytes())) as found:
        assert found["y"].tolist() == [1, 2]
