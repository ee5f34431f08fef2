"""Answers in a file: what stays of a run that is cut short, and how a run goes on with it."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlserve.cli.answers import PredictOptions
from mlserve.errors import Unavailable
from mlserve.testing.processes import wait_until
from tests.harness.echo import EchoModel
from tests.harness.server import running

pytestmark = pytest.mark.server


@pytest.mark.parametrize(
    ("suffix", "is_kept", "hint"),
    [
        ("csv", True, "make room, and go on with the same command and --resume"),
        ("npz", False, "give an --output-file with room"),
    ],
)
def test_a_full_disk(
    cli: Any, echo: Any, table: Any, tmp_path: Path, suffix: str, is_kept: bool, hint: str
) -> None:
    path = table("rows.csv", "a,b\n" + "1,2\n" * 2000)
    answers = tmp_path / f"answers.{suffix}"
    words = ("--signature", "two", "--endpoint", echo.grpc, "--timeout", "30")
    most = (8192, resource.RLIM_INFINITY)
    run = cli("predict", path, *words, "--output-file", answers, file_limit=most)

    assert run.returncode == 2
    assert f"error: {answers} cannot be written: File too large" in run.stderr
    assert f"hint: {hint}" in run.stderr
    assert answers.exists() == is_kept
    if is_kept:
        whole = answers.read_bytes().count(b"\n") - 1
        assert f"{whole} rows, 0 errors" in run.stderr
    again = cli("predict", path, *words, "--output-file", answers, *["--resume"] * is_kept)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_no_empty_file_stays_of_a_run_without_an_answer(tmp_path: Path, suffix: str) -> None:
    answers = tmp_path / f"answers.{suffix}"
    with pytest.raises(Unavailable), PredictOptions(output_file=answers).sink():
        raise Unavailable("the server is gone")

    assert not answers.exists()


def test_a_file_with_answers_is_not_written_over(two: Any, table: Any, tmp_path: Path) -> None:
    answers = table("answers.csv", "precious")
    outcome = two(table("rows.csv", "a,b\n1,2\n"), "--output-file", answers)

    assert outcome.returncode == 2
    assert outcome.stderr.splitlines()[0] == f"error: {answers} exists already"
    assert "--resume goes on with it" in outcome.stderr
    assert answers.read_text() == "precious"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "tsv"])
def test_a_run_is_gone_on_with(two: Any, table: Any, tmp_path: Path, suffix: str) -> None:
    """The file is cut inside of a line, and one of its rows had an error that is mended now."""
    rows, answers = table("rows.csv", "a,b\n1,2\nx,4\n5,6\n7,8\n"), tmp_path / f"answers.{suffix}"
    first = two(rows, "--output-file", answers, "--resume")
    assert first.returncode == 2
    data = answers.read_bytes()
    answers.write_bytes(data[:-3])
    rows.write_text(rows.read_text().replace("x", "3"))
    second = two(rows, "--output-file", answers, "--resume")
    third = two(rows, "--output-file", answers, "--resume")

    assert second.returncode == 0
    assert "2 rows, 0 errors" in second.stderr
    assert "(2 rows had answers)" in second.stderr
    assert "0 rows, 0 errors" in third.stderr
    assert sorted(_numbers(answers)) == [1, 2, 3, 4]


def test_a_table_that_is_newer_than_its_answers_is_told_of(
    two: Any, table: Any, tmp_path: Path
) -> None:
    rows, answers = table("rows.csv", "a,b\n1,2\n"), tmp_path / "answers.csv"
    words = (rows, "--output-file", answers, "--resume")
    assert two(*words).returncode == 0
    assert "has changed" not in two(*words).stderr
    rows.write_text("a,b\n5,6\n1,2\n")
    later = answers.stat().st_mtime + 10
    os.utime(rows, (later, later))
    outcome = two(*words)

    assert outcome.stderr.splitlines()[0] == (
        f"note: {rows} has changed since {answers} was written; each answer there stays with the "
        "number of its row"
    )
    assert _numbers(answers) == [1, 2]


def test_a_run_that_was_killed_is_gone_on_with(
    start_echo: Any, cli: Any, table: Any, tmp_path: Path
) -> None:
    """Killed with answers in the file and requests in flight: each row is there once at the end."""
    count = 5000
    endpoint = start_echo().grpc
    path = table("rows.csv", "a,b\n" + "".join(f"{n},1\n" for n in range(count)))
    answers = tmp_path / "answers.jsonl"
    words = (
        "predict",
        path,
        "--signature",
        "two",
        "--output-file",
        answers,
        "--endpoint",
        endpoint,
    )
    process = cli.start(*words, "--batch", 1)
    wait_until(lambda: answers.exists() and answers.stat().st_size > 500)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(answers.read_bytes().splitlines())
    assert 0 < before < count
    outcome = cli(*words, "--resume")

    assert outcome.returncode == 0, outcome.stderr
    assert _numbers(answers) == [*range(1, count + 1)]
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert all(line["outputs"]["sum"] == line["row"] for line in lines)


def test_two_do_not_write_one_file(
    two: Any, cli: Any, echo: Any, table: Any, tmp_path: Path
) -> None:
    """Each would ask about the rows of the other, and have them twice."""
    pipe, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    os.mkfifo(pipe)
    go_on = (table("again.csv", "a,b\n1,2\n3,4\n5,6\n"), "--output-file", answers, "--resume")
    where = ("--signature", "two", "--endpoint", echo.grpc, "--output-file", answers)
    process = cli.start("predict", pipe, *where, "--batch", 1, "--parallel", 1)
    with pipe.open("w") as rows:
        print("a,b\n1,2\n3,4", file=rows, flush=True)
        wait_until(lambda: answers.exists() and len(answers.read_text().splitlines()) > 1)
        again = two(*go_on)
        print("5,6", file=rows, flush=True)
    _, stderr = process.communicate(timeout=30)

    assert again.returncode == 2
    assert f"error: another process writes to {answers}\nhint: wait " in again.stderr
    assert process.returncode == 0, stderr
    assert _numbers(answers) == [1, 2, 3]
    assert "(3 rows had answers)" in two(*go_on).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", ["json", "npz", "csv"])
def test_an_interrupt_keeps_what_is_answered(
    start_echo: Any, cli: Any, table: Any, tmp_path: Path, suffix: str, number: signal.Signals
) -> None:
    """Also in the formats that are written at the end."""
    path = table("rows.csv", "seconds\n0\n0\n0\n" + "300\n" * 9)
    echo = start_echo()
    answers = tmp_path / f"answers.{suffix}"
    where = ("--signature", "slow", "--endpoint", echo.grpc, "--timeout", 600)
    limits = ("--batch", 1, "--parallel", 2, "--output-file", answers)
    process = cli.start("predict", path, *where, *limits)
    wait_until(lambda: _answered(echo) >= 3 and echo.in_flight() >= 2)  # it has the third
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 130, stderr
    assert "interrupted after 3 rows; the others have no answer\nhint: " in stderr
    assert "--resume" in stderr
    if suffix == "npz":
        assert np.load(answers)["row"].tolist() == [1, 2, 3]
    elif suffix == "json":
        found = json.loads(answers.read_text())
        assert [row["row"] for row in found["predictions"]] == [1, 2, 3]
        assert found["endpoint"]
    else:
        assert _numbers(answers) == [1, 2, 3]


def _answered(echo: Any) -> int:
    """How many requests for tensors the server has answered."""
    text = httpx.get(f"{echo.endpoint('rest')}/metrics").text
    counts = re.findall(r'^mlserve_requests_total\{.*kind="predict".*\} (\d+)', text, re.MULTILINE)
    return sum(map(int, counts))


def test_half_of_an_object_does_not_stay(tmp_path: Path) -> None:
    """A second Ctrl-C while it is written."""

    class Interrupting(dict[str, int]):
        def items(self) -> Any:
            raise KeyboardInterrupt

    options = PredictOptions(output_file=tmp_path / "answers.json")

    def write() -> None:
        with options.sink() as sink:
            sink.write("{")
            sink.show(Interrupting(a=1))

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not (tmp_path / "answers.json").exists()


def test_a_server_that_is_gone_ends_the_run_and_keeps_what_is_answered(
    two: Any, cli: Any, table: Any, tmp_path: Path
) -> None:
    model = EchoModel(tmp_path / "m")
    model.put(1)
    pipe, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    os.mkfifo(pipe)
    with running(model, tmp_path / "log", "--host=127.0.0.1") as server:
        server.wait_ready()
        where = ("--signature", "two", "--endpoint", server.grpc, "--output-file", answers)
        limits = ("--batch", 1, "--parallel", 1, "--max-attempts", 1)
        process = cli.start("predict", pipe, *where, *limits)
        # It may end before it has read the last rows: at row 2, if that is asked about too late.
        with suppress(BrokenPipeError), pipe.open("w") as rows:
            print("a,b\n1,2\n3,4", file=rows, flush=True)
            wait_until(lambda: answers.exists() and len(answers.read_text().splitlines()) > 1)
            server.process.kill()
            server.process.wait()
            print("5,6\n7,8", file=rows, flush=True)
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == 5
    assert "--resume" in stderr
    assert answers.read_text().startswith("row,product,sum\n1,2.0,3.0\n")
    assert 4 not in _numbers(answers)


def _numbers(answers: Path) -> list[int]:
    """The numbers of the rows that a file of answers has."""
    text = answers.read_text()
    if answers.suffix == ".jsonl":
        return [json.loads(line)["row"] for line in text.splitlines()]
    delimiter = "," if answers.suffix == ".csv" else "\t"
    return [int(row[0]) for row in [*csv.reader(text.splitlines(), delimiter=delimiter)][1:]]
