"""`mlserve predict rows.csv`: tables of every format, rows that are wrong, answers as they come."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve import Client
from mlserve.cli.app import app
from mlserve.cli.tables import VersionCheck
from mlserve.client import ModelMetadata
from mlserve.deadline import Deadline
from mlserve.rows.table import Place
from mlserve.testing.processes import wait_until
from tests.harness.command import MLSERVE
from tests.harness.echo import EchoModel, manifest, tensors_manifest
from tests.harness.server import running

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
ANSWERS = "row\tproduct\tsum\n1\t2.0\t3.0\n2\t12.0\t7.0\n"
SUMMARY = re.compile(
    r"(\d+) rows, (\d+) errors?, \d+ rows/s(?: \((\d+) rows? had answers\))?"
    r"(?:; (\d+) requests?, p50 [\d.]+ ms, p99 [\d.]+ ms)?\n"
)


def _summary(stderr: str) -> tuple[int, int]:
    """The rows and the errors that the last line tells."""
    found = SUMMARY.search(stderr)
    assert found is not None, stderr
    return int(found[1]), int(found[2])


@PROTOCOLS
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "b,a\n2,1\n4,3\n"),
        ("rows.tsv", "a\tb\n1\t2\n3\t4\n"),
        ("rows.jsonl", '{"a": 1, "b": 2}\n{"b": 4, "a": 3}\n'),
        ("rows.json", '[{"a": 1, "b": 2}, {"a": 3, "b": 4}]'),
    ],
)
def test_a_table_by_the_names_of_its_columns(
    two: Any, table: Any, name: str, content: str, protocol: str
) -> None:
    outcome = two(table(name, content), protocol=protocol)

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == ANSWERS
    assert _summary(outcome.stderr) == (2, 0)


def test_arrays_are_tables_too(two: Any, cli: Any, echo: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", a=np.array([1.0, 3.0]), b=np.array([2.0, 4.0]))
    np.save(tmp_path / "rows.npy", np.arange(6, dtype=np.int64).reshape(3, 2))
    words = ("--signature", "identity_int64", "--endpoint", echo.grpc, "--output", "jsonl")
    rows = cli("predict", tmp_path / "rows.npy", *words, "--batch", 2)

    assert two(tmp_path / "rows.npz").stdout == ANSWERS
    found = [json.loads(line)["outputs"]["y"] for line in rows.stdout.splitlines()]
    assert found == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n3,4\n", ()),
        (b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', ()),
        (b'[{"a": 1, "b": 2}, {"a": 3, "b": 4}]', ()),
        (b"a\tb\n1\t2\n3\t4\n", ("--format", "tsv")),
        (b"a,b\n1,2\n3,4\n", ("--format", "csv")),
    ],
)
def test_standard_input(two: Any, table: Any, content: bytes, words: tuple[str, ...]) -> None:
    with table("rows", content).open() as stdin:
        outcome = two("-", *words, stdin=stdin)

    assert (outcome.returncode, outcome.stdout) == (0, ANSWERS), outcome.stderr


def test_text_that_looks_like_no_table_needs_a_format(two: Any, table: Any) -> None:
    path = table("rows", "a\n1\n")
    with path.open() as stdin:
        guessed = two("-", stdin=stdin)
    with path.open() as stdin:
        told = two("-", "--format", "csv", stdin=stdin)

    assert guessed.returncode == 2
    assert guessed.stderr == (
        "error: standard input is text, but its first line has no comma, semicolon or tab\n"
        "hint: for a table with one column: --format csv\n"
    )
    assert "has no column 'b'" in told.stderr


def test_bad_rows_stop_no_other(two: Any, table: Any) -> None:
    path = table("rows.csv", "a,b,label\n1,2,x\n3,4,y\n5,abc,z\n7\n9,,q\n")
    outcome = two(path)

    assert outcome.stdout == f"{ANSWERS}5\tNaN\tNaN\n"
    assert outcome.returncode == 2
    assert outcome.stderr.splitlines()[:-1] == [
        f"note: columns of {path} that the model does not take: label",
        f"error: {path}, line 4: column 'b': 'abc' is not a number",
        "hint: the model takes b: float32[?]",
        f"error: {path}, line 5: 1 cell where the header has 3",
        "hint: put a cell that has the delimiter in it in quotes",
    ]
    assert _summary(outcome.stderr) == (5, 2)


def test_a_row_that_the_model_fails_on_takes_no_other_down(cli: Any, echo: Any, table: Any) -> None:
    path = table("rows.csv", "a\n" + "".join(f"{n}\n" for n in range(20)) + "-1\n21\n")
    words = ("--signature", "fragile", "--endpoint", echo.grpc, "--output", "jsonl")
    outcome = cli("predict", path, *words)

    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["row"] for row in rows] == [*range(1, 23)]
    assert [row["row"] for row in rows if "error" in row] == [21]
    assert (rows[20]["line"], rows[20]["error"]["kind"]) == (22, "inference_failed")
    assert outcome.returncode == 6


def test_the_exit_code_is_that_of_the_first_error(cli: Any, echo: Any, table: Any) -> None:
    path = table("rows.csv", "a\nx\n-1\n")
    outcome = cli("predict", path, "--signature", "fragile", "--endpoint", echo.grpc)

    assert outcome.returncode == 2


def test_each_format(two: Any, table: Any, tmp_path: Path) -> None:
    path = table("rows.csv", "a,b\n1,2\nx,4\n")
    as_csv = two(path, "--output", "csv")
    as_json = two(path, "--output", "json")
    as_arrays = two(path, "--output-file", tmp_path / "answers.npz")

    assert as_csv.stdout == "row,product,sum\n1,2.0,3.0\n"
    found = as_json.json()
    assert found["predictions"][0] == {"row": 1, "outputs": {"product": 2.0, "sum": 3.0}}
    assert found["predictions"][1]["error"]["message"] == "column 'a': 'x' is not a number"
    assert (found["model"], found["signature"]) == ("inception_v3", "two")
    assert {found.returncode for found in (as_csv, as_json, as_arrays)} == {2}
    with np.load(tmp_path / "answers.npz") as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {
            "row": [1],
            "product": [2.0],
            "sum": [3.0],
        }


def test_several_files_have_their_names_in_the_answers(two: Any, table: Any) -> None:
    good, bad = table("good.csv", "a,b\n1,2\n"), table("bad.csv", "a,c\n1,2\n")
    outcome = two(good, bad, "gone.csv", table("last.jsonl", '{"a": 3, "b": 4}'))

    assert outcome.stdout == (
        f"file\trow\tproduct\tsum\n{good}\t1\t2.0\t3.0\n"
        f"{good.with_name('last.jsonl')}\t1\t12.0\t7.0\n"
    )
    assert f"error: {bad} has no column 'b'\nhint: the model takes" in outcome.stderr
    assert "error: gone.csv cannot be read: No such file or directory\n" in outcome.stderr
    assert outcome.returncode == 2


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("a,bb\n1,2\n", "has no column 'b'", "the model takes the columns 'a', 'b'"),
        ("x,y\n1,2\n", "has no column 'a', 'b'", "the model takes the columns 'a', 'b'"),
        ("", "has no header: the file is empty", "its first line names the columns"),
        ("a,a\n", "has the column 'a' twice", "a name of its own"),
    ],
)
def test_a_header_that_is_wrong_is_the_commands_error(
    two: Any, table: Any, tmp_path: Path, content: str, message: str, hint: str
) -> None:
    outcome = two(table("rows.csv", content), "--output-file", tmp_path / "answers.csv")

    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert message in outcome.stderr.splitlines()[0]
    assert hint in outcome.stderr.splitlines()[1]
    assert not (tmp_path / "answers.csv").exists()


def test_a_header_alone_has_no_rows(two: Any, table: Any) -> None:
    outcome = two(table("rows.csv", "a,b\n"))

    assert (outcome.returncode, outcome.stdout) == (0, "row\tproduct\tsum\n")
    assert outcome.stderr.startswith("0 rows, 0 errors")


def test_the_columns_of_a_matrix_have_the_names_that_the_server_gives(
    cli: Any, table: Any, tmp_path: Path
) -> None:
    model = EchoModel(tmp_path / "m")
    named = replace(
        manifest(), pipeline=None, labels_digest=None, columns={"x": ("height", "age", "width")}
    )
    model.put(1, manifest=named)
    path = table("rows.csv", "id,age,width,height\n7,1,2,3\n8,,5,6\n")
    with running(model, tmp_path / "log", "--host=127.0.0.1") as server:
        server.wait_ready()
        for endpoint in (server.grpc, server.endpoint("rest")):
            words = ("--signature", "identity_float32", "--endpoint", endpoint)
            outcome = cli("predict", path, *words, "--output", "jsonl")
            rows = [json.loads(line)["outputs"]["y"] for line in outcome.stdout.splitlines()]

            assert str(rows) == "[[3.0, 1.0, 2.0], [6.0, nan, 5.0]]", outcome.stderr
            assert "that the model does not take: id\n" in outcome.stderr


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_version_whose_columns_have_moved_ends_the_run(tmp_path: Path, is_moved: bool) -> None:
    model = EchoModel(tmp_path / "m")
    one = replace(tensors_manifest(), columns={"x": ("a", "b")})
    model.put(1, manifest=one)
    with running(model, tmp_path / "log", "--host=127.0.0.1") as server:
        server.wait_ready()
        words = ("-", "--signature", "identity_float32", "--endpoint", server.grpc, "--timeout=30")
        with subprocess.Popen(
            [*MLSERVE, "predict", *words, "--batch=1", "--parallel=1", "--output=csv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            assert run.stderr is not None
            print("a,b\n1,2", file=run.stdin, flush=True)
            first = [run.stdout.readline(), run.stdout.readline()]
            model.put(2, manifest=replace(one, columns={"x": ("b", "a")}) if is_moved else one)
            with Client(server.grpc) as client:
                wait_until(lambda: client.metadata(timeout=5).version == 2)
            print("3,4", file=run.stdin, flush=True)
            run.stdin.close()
            rest, told = run.stdout.read(), run.stderr.read()

    assert first == ["row,y\n", '1,"[1.0, 2.0]"\n']
    assert (run.returncode, rest) == ((2, "") if is_moved else (0, '2,"[3.0, 4.0]"\n')), told
    if is_moved:
        assert "error: version 2 of m, which answers now, takes other columns or inputs" in told
    else:
        assert "note: version 2 of m answers from row 2 on" in told


@pytest.mark.parametrize(("answers", "planned"), [(None, 1), (1, None), (1, 1)])
def test_a_version_that_is_not_told_is_not_another_one(
    answers: int | None, planned: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = ModelMetadata("m", planned, ())
    check = VersionCheck(cast("Any", None), None, metadata, Deadline.after(5))
    check(cast("Any", SimpleNamespace(version=answers, model="m")), Place("rows.csv", 1))

    assert capsys.readouterr().err == ""


def test_rows_that_depend_on_each_other_are_asked_about_alone(
    cli: Any, table: Any, tmp_path: Path
) -> None:
    model = EchoModel(tmp_path / "m")
    model.put(1, manifest=tensors_manifest(has_dependent_rows=True))
    path = table("rows.csv", "x\n1\n2\n3\n")
    with running(model, tmp_path / "log", "--host=127.0.0.1") as server:
        server.wait_ready()
        words = ("predict", path, "--signature", "identity_float32", "--endpoint", server.grpc)
        alone, together = cli(*words), cli(*words, "--batch", 128)

    assert model.runs().count("identity_float32") == 3 + 1
    assert alone.stdout == together.stdout == "row\ty\n1\t1.0\n2\t2.0\n3\t3.0\n"
    assert "a row's answer depends on the rows beside it" in alone.stderr
    assert "depends" not in together.stderr


def test_rows_are_sent_in_batches_that_the_server_takes(
    cli: Any, start_echo: Any, table: Any
) -> None:
    server = start_echo("--max-batch-length", "10")
    path = table("rows.csv", "a,b\n" + "".join(f"{n},1\n" for n in range(100)))
    words = ("--signature", "two", "--endpoint", server.grpc, "--outputs", "sum")
    usual = cli("predict", path, *words)
    small = cli("predict", path, *words, "--batch", 7, "--parallel", 2)

    expected = "row\tsum\n" + "".join(f"{n + 1}\t{n + 1}.0\n" for n in range(100))
    assert (usual.returncode, usual.stdout) == (0, expected), usual.stderr
    assert (small.returncode, small.stdout) == (0, expected), small.stderr
    found = SUMMARY.search(small.stderr)
    assert found is not None
    assert found[4] == "15"


def test_answers_come_as_they_are_there(echo: Any) -> None:
    """One row at a time: the answer is there before the next row is."""
    where = ("--signature", "two", "--endpoint", echo.grpc, "--batch", "1", "--parallel", "1")
    with subprocess.Popen(
        [*MLSERVE, "predict", "-", "--format", "jsonl", "--output", "jsonl", *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(1, 4):
            print(json.dumps({"a": number, "b": 1}), file=process.stdin, flush=True)
            found = json.loads(process.stdout.readline())
            assert (found["row"], found["outputs"]["product"]) == (number, number)
        process.stdin.close()

    assert process.returncode == 0


def test_errors_of_many_rows_are_told_in_part(two: Any, table: Any) -> None:
    outcome = two(table("rows.csv", "a,b\n" + "x,1\n" * 50))

    assert outcome.stderr.count("error: ") == 20
    assert "30 more errors; --output jsonl has the error of every row\n" in outcome.stderr
    assert _summary(outcome.stderr) == (50, 50)


def test_progress_on_a_terminal(echo: Any, table: Any) -> None:
    path = table("rows.csv", "a,b\n" + "1,2\n" * 1500)
    ours, theirs = pty.openpty()
    where = ("--signature", "two", "--endpoint", echo.grpc, "--batch", "1")
    done = subprocess.run(
        [*MLSERVE, "predict", str(path), *where], stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)

    assert re.search(rb"\r\x1b\[K\d+ rows, 0 errors, \d+ rows/s", shown)
    assert shown.rstrip().endswith(b"ms")
    assert len(done.stdout.splitlines()) == 1501


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rows.csv", "horse.jpg"), "rows.csv is a table and horse.jpg is not"),
        (("rows.csv", "--top-k", "3"), "--top-k does not go with tables"),
        (("rows.csv", "--resume"), "--resume needs the file to go on with"),
        (("rows.csv", "--resume", "--output-file", "a.npz"), "--resume cannot go on with npz"),
        (("rows.csv", "--format", "csv"), "--format is for standard input"),
        (("-", "horse.jpg", "--format", "csv"), "--format csv: a table on standard input does not"),
        (("horse.jpg", "--batch", "3"), "--batch does not go with images"),
        (("horse.jpg", "--output", "csv"), "--output csv does not go with images"),
        (("gone.csv",), "gone.csv cannot be read: No such file or directory"),
    ],
)
def test_options_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    for name in ("rows.csv", "horse.jpg"):
        (tmp_path / name).write_text("a,b\n")
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["predict", *words, "--endpoint", "127.0.0.1:1"])

    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {message}")
    assert "\nhint: " in refused.stderr
