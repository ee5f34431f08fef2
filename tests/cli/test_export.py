"""`mlserve export` as a command: what it prints where, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.cli.export import parse_scale
from mlserve.errors import ExitCode, UsageError
from mlserve.sources import Fact, How
from mlserve.store import Store

ASSUMED = "assumed: it looks at no pixel (give --scale to be sure)"
FOUND = "found in the model: its labels are all there is"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_prints_the_folder_on_stdout_and_the_summary_on_stderr() -> None:
    code, out, err = run("--backend", "echo", "--model", "echo")
    path = Store().find("echo", "echo").path
    assert (code, out) == (0, f"{path}\n")
    assert err.splitlines() == [
        "model    echo, version 1, for echo",
        "source   echo",
        "input    JPEG or PNG -> 224x224 RGB",
        f"scale    pixels 0 and 255 become 0 and 255; {ASSUMED}",
        f"output   5 classes, the model's outputs are taken as scores; {FOUND}",
        "labels   class 0 is 'sorrel', class 4 is 'impala'",
        "next     mlserve up --backend echo --model echo",
    ]


def test_what_was_given_is_said_and_kept_in_the_manifest() -> None:
    _, _, err = run("--backend", "echo", "--model", "echo", "--scale", "-1..1")
    assert "scale    pixels 0 and 255 become -1 and 1; given" in err.splitlines()
    manifest = Store().find("echo", "echo").manifest
    assert manifest is not None
    assert manifest.facts["scale"] == Fact(How.GIVEN)
    assert manifest.facts["activation"].how is How.FOUND


def test_a_reversed_scale_is_taken_with_a_warning() -> None:
    code, _, err = run("--backend", "echo", "--model", "echo", "--scale", "1..0")
    assert code == 0
    assert "WARNING  --scale 1..0 turns light pixels dark; the usual way round is 0..1" in err


def test_a_manifest_without_facts_is_still_read() -> None:
    run("--backend", "echo", "--model", "echo")
    path = Store().find("echo", "echo").path / "mlserve.json"
    data = json.loads(path.read_text())
    del data["facts"]
    path.write_text(json.dumps(data))
    manifest = Store().find("echo", "echo").manifest
    assert manifest is not None
    assert manifest.facts == {}


def test_random_weights_are_said_loudly() -> None:
    _, _, err = run("--backend", "echo", "--model", "echo", "--weights", "random")
    assert "WARNING  the weights are random: the answers of this model mean nothing" in err


def test_labels_of_several_classes_are_warned_of(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("ok\ndefect\nok\n")
    code, _, err = run("--backend", "echo", "--model", "echo", "--labels", str(labels))
    assert code == 0
    assert "WARNING  'ok' is the label of the classes 0, 2: their answers look the same" in err


def test_options_reach_the_model(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("ok\ndefect\n")
    options = ("--input-size", "32", "--top-k", "2", "--version", "9", "--labels", str(labels))
    code, _, _ = run(
        "--backend", "echo", "--model", "echo", "--store", str(tmp_path / "s"), *options
    )
    artifact = Store(tmp_path / "s").find("echo", "echo", 9)
    assert code == 0
    assert artifact.labels() == ("ok", "defect")
    assert artifact.manifest is not None
    assert (artifact.manifest.pipeline.width, artifact.manifest.pipeline.top_k) == (32, 2)


def test_json_says_what_was_written(tmp_path: Path) -> None:
    store = tmp_path / "my store"
    code, out, err = run(
        "--backend", "echo", "--model", "echo", "--store", str(store), "--output", "json"
    )
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["path"] == str(store / "echo" / "echo" / "1")
    assert (found["backend"], found["model"], found["version"]) == ("echo", "echo", 1)
    assert found["pipeline"]["classes"] == 5


def test_the_next_step_names_the_store(tmp_path: Path) -> None:
    store = tmp_path / "my store"
    _, _, err = run("--backend", "echo", "--model", "echo", "--store", str(store))
    assert err.endswith(f"next     mlserve up --store '{store}' --backend echo --model echo\n")


@pytest.mark.tensorflow
def test_a_file_of_weights_chooses_the_backend(tmp_path: Path) -> None:
    weights, labels = tmp_path / "x.onnx", tmp_path / "labels.txt"
    weights.write_bytes(b"not ONNX")
    labels.write_text("a\nb\n")
    options = ("--model", "d", "--weights", str(weights), "--labels", str(labels))

    by_itself = run(*options)
    for_another = run(*options, "--backend", "tfserving")

    assert (by_itself[0], by_itself[2].startswith("error: ONNX Runtime cannot load")) == (4, True)
    assert for_another[0] == ExitCode.USAGE
    assert for_another[2] == (
        "error: the framework of x.onnx is onnx, which the backend 'tfserving' does not take (it "
        "takes tensorflow)\nhint: choose --backend onnxruntime or openvino\n"
    )


def test_a_file_of_no_known_kind_is_told_the_kinds(tmp_path: Path) -> None:
    weights = tmp_path / "x.tflite"
    weights.touch()
    code, _, err = run("--model", "d", "--weights", str(weights))
    assert code == ExitCode.USAGE
    (hint,) = [line for line in err.splitlines() if line.startswith("hint: ")]
    said, _, kinds = hint.partition(" in a file of a known kind: ")
    assert said == "hint: give the weights of your own model"
    assert {".keras", ".onnx", "a SavedModel folder"} <= set(kinds.split(", "))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--backend", "tflite"), ExitCode.USAGE),
        (("--backend", "echo", "--model", "a/b"), ExitCode.USAGE),
        (("--backend", "echo", "--model", "hors"), ExitCode.USAGE),
        (("--backend", "echo", "--scale", "0-1"), ExitCode.USAGE),
        (("--input-size", "0"), ExitCode.USAGE),
        (("--input-size", "5000"), ExitCode.USAGE),
        (("--top-k", "0"), ExitCode.USAGE),
        (("--version", "-1"), ExitCode.USAGE),
        (("--seed", "-1"), ExitCode.USAGE),
        (("--backend", "echo", "--input", "x:float32[?,4]"), ExitCode.USAGE),
        (("--backend", "echo", "--model", "m", "--weights", "no.h5"), ExitCode.USAGE),
    ],
)
def test_a_wrong_option_ends_with_its_exit_code(arguments: tuple[str, ...], code: ExitCode) -> None:
    assert run(*arguments)[0] == code


def test_a_seed_without_random_weights_is_refused() -> None:
    code, _, err = run("--backend", "echo", "--weights", "my.h5", "--seed", "7")
    assert code == ExitCode.USAGE
    assert "error: --seed 7 has no effect: only --weights random draws" in err


def test_a_version_that_is_there_ends_with_the_export_code() -> None:
    run("--backend", "echo", "--model", "echo", "--version", "1")
    code, out, err = run("--backend", "echo", "--model", "echo", "--version", "1")
    assert (code, out) == (ExitCode.EXPORT, "")
    assert err.startswith("error: version 1 is there already: ")
    assert "hint: leave --version out" in err


@pytest.mark.parametrize(
    ("text", "pair"),
    [("0..1", (0, 1)), ("-1..1", (-1, 1)), ("0..255", (0, 255)), ("-0.5..0.5", (-0.5, 0.5))],
)
def test_a_scale_is_what_black_and_white_become(text: str, pair: tuple[float, float]) -> None:
    assert parse_scale(text) == pair


@pytest.mark.parametrize("text", ["", "1", "0..", "..1", "a..b", "1..1", "nan..1", "0..inf", "0,1"])
def test_a_scale_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a range of two different numbers"):
        parse_scale(text)


def test_a_negative_scale_is_an_options_value() -> None:
    code, _, _ = run("--backend", "echo", "--model", "echo", "--scale", "-1..1")
    assert code == 0


def test_the_graph_cannot_turn_images_by_exif_and_the_command_says_why() -> None:
    code, out, err = run("--backend", "tfserving", "--exif", "apply")
    assert (code, out) == (ExitCode.USAGE, "")
    assert "TensorFlow has no operation that reads EXIF" in err
