"""`mlserve predict` against the embedded server: formats, many files, folders, standard input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import MLSERVE

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """b.JPG, bad.png (which the server refuses), and a file that is no image by its name."""
    path = tmp_path / "photos"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "b.JPG").write_bytes(b"fine")
    (path / "bad.png").write_bytes(b"bad")
    (path / "z.jpeg").write_bytes(b"fine")
    (path / "notes.txt").write_bytes(b"fine")
    return path


@PROTOCOLS
def test_text_is_the_label_alone(cli: Any, echo: Any, photo: Path, protocol: str) -> None:
    outcome = cli("predict", photo, "--endpoint", echo.endpoint(protocol))

    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "sorrel\n", "")


@PROTOCOLS
def test_top_k_prints_the_scores_below_the_label(
    cli: Any, echo: Any, photo: Path, protocol: str
) -> None:
    outcome = cli("predict", photo, "--endpoint", echo.endpoint(protocol), "--top-k", 2)

    assert outcome.stdout == "sorrel\n0.5000\t0\tsorrel\n0.2500\t1\tzebra\n"


@PROTOCOLS
def test_json_has_everything(cli: Any, echo: Any, photo: Path, protocol: str) -> None:
    endpoint = echo.endpoint(protocol)
    outcome = cli("predict", photo, "--endpoint", endpoint, "--top-k", 1, "--output", "json")

    found = outcome.json()
    timings = found.pop("timings_ms")
    assert [*timings] == [
        *(
            "start",
            "read",
            "connect",
            "queue",
            "decode",
            "run",
            "encode",
            "receive",
            "wait",
            "total",
        )
    ]
    assert timings.pop("wait") == 0
    assert timings.pop("total") == pytest.approx(sum(timings.values()), abs=0.01)
    assert timings["start"] > 50  # the imports
    assert timings["read"] > 0
    assert timings["connect"] > 0
    assert timings["receive"] > 0
    assert re.fullmatch("[0-9a-f]{32}", found.pop("request_id"))
    assert re.fullmatch("[0-9a-f]{32}", found.pop("trace_id"))
    found.pop("served_by")
    assert found == {
        "file": str(photo),
        "label": "sorrel",
        "scores": [{"label": "sorrel", "score": 0.5, "index": 0}],
        "model": "inception_v3",
        "version": 1,
        "endpoint": endpoint,
        "protocol": protocol,
        "api": "tfs",
        "has_random_weights": False,
        "attempts": 1,
        "retries": [],
        "shortfall": None,
        "rungs": None,
    }


def test_protocol_option_turns_host_and_port_into_rest(cli: Any, echo: Any, photo: Path) -> None:
    address = echo.rest
    outcome = cli("predict", photo, "--endpoint", address, "--protocol", "rest")

    assert outcome.stdout == "sorrel\n"


def test_a_pinned_version_is_asked(cli: Any, echo: Any, photo: Path) -> None:
    answered = cli(
        "predict", photo, "--endpoint", echo.endpoint("rest"), "--version", 1, "--output", "json"
    )
    refused = cli("predict", photo, "--endpoint", echo.endpoint("rest"), "--version", 9)

    assert answered.json()["version"] == 1
    assert refused.returncode == 2
    assert "9" in refused.stderr


def test_folder_prints_a_line_a_file_and_names_the_bad_one(
    cli: Any, echo: Any, folder: Path
) -> None:
    outcome = cli("predict", folder, "--endpoint", echo.grpc)

    assert outcome.stdout == f"{folder}/inner/b.JPG\tsorrel\n{folder}/z.jpeg\tsorrel\n"
    assert outcome.stderr.startswith(f"error: {folder}/bad.png: ")
    assert "hint: " in outcome.stderr
    assert outcome.returncode == 2


def test_images_of_a_folder_that_are_left_out_are_told(cli: Any, echo: Any, folder: Path) -> None:
    """A folder is asked about as a whole, and its accuracy is told: no part may lack unsaid."""
    (folder / "bad.png").unlink()
    for name in ("inner/c.webp", "d.TIF"):
        (folder / name).write_bytes(b"of another format")
    outcome = cli("predict", folder, "--endpoint", echo.grpc)

    assert outcome.stdout.count("sorrel") == 2
    assert outcome.stderr == (
        f"note: 2 images with other endings left out, the first is {folder}/d.TIF; "
        "a folder gives its files that end in .jpg, .jpeg, .png\n"
    )


def test_files_keep_their_order_and_duplicates(cli: Any, echo: Any, folder: Path) -> None:
    names = [str(folder / "z.jpeg"), str(folder / "notes.txt"), str(folder / "z.jpeg")]
    outcome = cli("predict", *names, "--endpoint", echo.grpc)

    assert [line.split("\t")[0] for line in outcome.stdout.splitlines()] == names
    assert outcome.returncode == 0


def test_many_files_with_scores_are_k_lines_each(cli: Any, echo: Any, folder: Path) -> None:
    name = folder / "z.jpeg"
    outcome = cli("predict", name, name, "--endpoint", echo.grpc, "--top-k", 2)

    lines = [f"{name}\t0.5000\t0\tsorrel\n", f"{name}\t0.2500\t1\tzebra\n"]
    assert outcome.stdout == "".join(lines * 2)


def test_json_of_many_has_a_row_for_each_answer_and_error(
    cli: Any, echo: Any, folder: Path
) -> None:
    missing = folder / "missing.jpg"
    outcome = cli("predict", folder, missing, "--endpoint", echo.grpc, "--output", "json")

    rows = outcome.json()["predictions"]
    assert [Path(row["file"]).name for row in rows] == ["bad.png", "b.JPG", "z.jpeg", "missing.jpg"]
    assert [row.get("label") for row in rows] == [None, "sorrel", "sorrel", None]
    assert rows[0]["error"]["kind"] == "invalid_input"
    assert rows[3]["error"] == {
        "kind": "usage_error",
        "message": f"{missing} cannot be read: No such file or directory",
        "hint": "give the path of a JPEG or PNG file",
        "exit_code": 2,
    }
    assert outcome.returncode == 2


def test_jsonl_is_one_object_a_line_errors_too(cli: Any, echo: Any, folder: Path) -> None:
    outcome = cli("predict", folder, "--endpoint", echo.endpoint("rest"), "--output", "jsonl")

    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row.get("label") for row in rows] == [None, "sorrel", "sorrel"]
    assert rows[0]["error"]["kind"] == "not_an_image"
    assert (outcome.stderr, outcome.returncode) == ("", 2)


def test_jsonl_streams(echo: Any, photo: Path, tmp_path: Path) -> None:
    """The first row is there while the second image cannot be read yet."""
    pipe = tmp_path / "pipe.jpg"
    subprocess.run(["mkfifo", pipe], check=True)
    options = ["--endpoint", echo.grpc, "--output", "jsonl", "--timeout", "30"]
    command = [*MLSERVE, "predict", str(photo), str(pipe), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert process.poll() is None
        pipe.write_bytes(b"fine")
        second = json.loads(process.stdout.readline())

    assert (first["file"], second["file"]) == (str(photo), str(pipe))
    assert process.returncode == 0


@pytest.mark.parametrize("parallel", [(), ("--parallel", "1")])
def test_ctrl_c_prints_the_answers_that_are_there(
    cli: Any, echo: Any, photo: Path, tmp_path: Path, parallel: tuple[str, ...]
) -> None:
    """Though the one object of `--output json` is printed at the end."""
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    options = ("--endpoint", echo.grpc, "--output", "json", "--timeout", "300", *parallel)
    process = cli.start("predict", photo, photo, pipe, photo, *options)
    with pipe.open("wb"):  # both ends are open now: it reads, and waits
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    answered = [row["label"] for row in json.loads(out)["predictions"]]
    # With --parallel the second answer may be on its way to the thread that prints.
    assert answered == ["sorrel"] * 2 or (parallel and answered == ["sorrel"])
    first = (photo, photo, pipe)[len(answered)]
    told = f"interrupted after {len(answered)} of 4 images; the first without an answer is {first}"
    assert f"{told}\nhint: " in err


def test_standard_input(cli: Any, echo: Any, photo: Path) -> None:
    with photo.open("rb") as stdin:
        outcome = cli("predict", "-", "--endpoint", echo.grpc, "--output", "json", stdin=stdin)

    assert (outcome.json()["label"], outcome.json()["file"]) == ("sorrel", "-")


def test_standard_input_twice_is_refused(cli: Any) -> None:
    outcome = cli("predict", "-", "-", "--endpoint", "127.0.0.1:1")

    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: standard input (-) can be read only once\nhint: ")


def test_empty_folder_is_an_error(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    outcome = cli("predict", tmp_path / "none", "--endpoint", "127.0.0.1:1")

    assert outcome.returncode == 2
    assert f"there is no image in the folder {tmp_path}/none" in outcome.stderr


def test_a_file_that_is_not_there_is_told_before_anything_of_servers(cli: Any) -> None:
    outcome = cli("predict", "horse.jpg")

    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: horse.jpg cannot be read: No such file or directory\n")


def test_one_bad_image_is_the_commands_error(cli: Any, echo: Any, folder: Path) -> None:
    text = cli("predict", folder / "bad.png", "--endpoint", echo.endpoint("rest"))
    as_json = cli(
        "predict", folder / "bad.png", "--endpoint", echo.endpoint("rest"), "--output", "json"
    )

    assert (text.returncode, text.stdout) == (2, "")
    assert "refused the image: image 0 of 1 is not a JPEG or PNG file" in text.stderr
    assert as_json.stdout == ""
    assert json.loads(as_json.stderr)["error"]["kind"] == "not_an_image"


@PROTOCOLS
def test_a_file_larger_than_four_mebibytes(
    cli: Any, echo: Any, tmp_path: Path, protocol: str
) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(6 << 20))
    outcome = cli("predict", large, "--endpoint", echo.endpoint(protocol), "--timeout", 20)

    assert (outcome.stdout, outcome.returncode) == ("sorrel\n", 0)


def test_a_proxy_is_not_asked_for_this_machine(cli: Any, echo: Any, photo: Path) -> None:
    proxies = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "", "NO_PROXY": ""}
    for endpoint in (echo.grpc, echo.endpoint("rest")):
        outcome = cli("predict", photo, "--endpoint", endpoint, env=proxies)
        assert outcome.stdout == "sorrel\n", outcome.stderr


@PROTOCOLS
def test_metadata_lists_the_signatures(
    cli: Any, echo: Any, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In columns where there is room: one of the model's signatures has many inputs."""
    monkeypatch.setenv("COLUMNS", "200")
    endpoint = echo.endpoint(protocol)
    text = cli("metadata", "--endpoint", endpoint)
    data = cli("metadata", "--endpoint", endpoint, "--output", "json").json()

    lines = text.stdout.splitlines()
    assert lines[0] == f"inception_v3, version 1, at {endpoint}"
    assert lines[1] == "runs on  echo; unknown precision; unknown device; certificate=none"
    assert lines[2].split() == ["SIGNATURE", "INPUTS", "OUTPUTS"]
    serving_default = next(line for line in lines if line.startswith("serving_default"))
    assert serving_default.split("  ")[-1].strip() == "output_0: bytes[?]"
    assert (data["model"], data["version"], data["protocol"]) == ("inception_v3", 1, protocol)
    top_k = next(item for item in data["signatures"] if item["name"] == "top_k")
    assert top_k["inputs"] == [{"name": "image", "dtype": "bytes", "shape": [None]}]
    assert [spec["name"] for spec in top_k["outputs"]] == ["indices", "labels", "scores"]


@PROTOCOLS
def test_status_lists_the_versions(cli: Any, echo: Any, protocol: str) -> None:
    endpoint = echo.endpoint(protocol)
    text = cli("status", "--endpoint", endpoint)
    data = cli("status", "--endpoint", endpoint, "--output", "json").json()

    rows = [line.split() for line in text.stdout.splitlines()]
    assert rows[:2] == [["VERSION", "STATE", "ERROR"], ["1", "AVAILABLE"]]
    assert text.stdout.splitlines()[2].startswith("load: 0 running, 0 waiting; a request without ")
    assert data["load"].keys() == {
        "running",
        "waiting",
        "max_queue",
        "slots",
        "default_timeout",
        "patience",
        "processes",
        "ladders",
        "serving",
        "recording",
    }
    assert data["load"]["default_timeout"] == 30
    assert data["versions"] == [{"version": 1, "state": "AVAILABLE", "error": ""}]
    assert text.returncode == 0


def test_progress_is_shown_on_a_terminal_only(cli: Any, echo: Any, folder: Path) -> None:
    names = [str(folder / "z.jpeg"), str(folder / "notes.txt")]
    command = [*MLSERVE, "predict", *names, "--endpoint", echo.grpc]
    screen, terminal = os.openpty()
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, text=True, check=True)
    os.close(terminal)
    shown = _all_of(screen).decode()
    os.close(screen)

    assert f"[{'.' * 20}] 0/2 " in shown
    assert f"[{'#' * 10}{'.' * 10}] 1/2 " in shown
    assert shown.endswith("\r\x1b[K")
    assert result.stdout == "".join(f"{name}\tsorrel\n" for name in names)
    assert cli("predict", *names, "--endpoint", echo.grpc).stderr == ""


def _all_of(screen: int) -> bytes:
    """What was written to a terminal that is closed; one read need not bring it all."""
    shown = b""
    with suppress(OSError):  # how Linux says that there is no more
        while piece := os.read(screen, 65536):
            shown += piece
    return shown


@pytest.mark.parametrize("name", ["image", "server", "no"])
def test_an_error_names_its_file_whatever_the_file_is_called(
    cli: Any, echo: Any, tmp_path: Path, name: str
) -> None:
    """Each of these words is in what the server says."""
    for file in (name, "z.jpeg"):
        (tmp_path / file).write_bytes(b"bad")
    outcome = cli("predict", name, "z.jpeg", "--endpoint", echo.grpc)

    first, hint, second, _ = outcome.stderr.splitlines()
    assert first.startswith(f"error: {name}: the server at {echo.grpc} refused the request: ")
    assert second.startswith("error: z.jpeg: the server at ")
    assert hint.startswith("hint: ")


def test_an_error_that_begins_with_its_file_names_it_once(
    cli: Any, echo: Any, tmp_path: Path
) -> None:
    (tmp_path / "z.jpeg").write_bytes(b"fine")
    outcome = cli("predict", "z.jpeg", "gone.jpg", "--endpoint", echo.grpc)

    assert outcome.stderr.startswith("error: gone.jpg cannot be read: No such file or directory\n")


def test_images_in_parallel_keep_their_order(cli: Any, start_echo: Any, folder: Path) -> None:
    """Four answers of 0.5 s, two at a time."""
    names = [folder / "z.jpeg", folder / "bad.png", folder / "notes.txt", folder / "z.jpeg"]
    outcome = cli("predict", *names, "--endpoint", start_echo(delay=0.5).grpc, "--parallel", 2)

    assert [line.split("\t")[0] for line in outcome.stdout.splitlines()] == [
        str(name) for name in names if name.suffix != ".png"
    ]
    assert outcome.stderr.startswith(f"error: {names[1]}: ")
    assert outcome.returncode == 2
