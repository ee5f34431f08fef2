"""Calls that cannot be understood: one boundary words them, and says what was probably meant."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.errors import ExitCode


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, words, catch_exceptions=False, prog_name="mlserve")
    return result.exit_code, result.stdout, result.stderr


def refused(*words: str) -> tuple[str, str]:
    """The error and the hint that these words of a command line end with."""
    code, out, err = run(*words)
    assert (code, out) == (ExitCode.USAGE, "")
    error, hint = err.splitlines()
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.mark.parametrize(
    ("word", "command"),
    [
        *(("serve", "up"), ("run", "up"), ("start", "up"), ("SERVE", "up"), ("upp", "up")),
        *(("stop", "down"), ("kill", "down"), ("rm", "down"), ("list", "ps"), ("ls", "ps")),
        *(("infer", "predict"), ("query", "predict"), ("test", "predict"), ("prdict", "predict")),
        *(("convert", "export"), ("exprot", "export"), ("version", "--version")),
        *(("help", "--help"), ("health", "status"), ("info", "metadata"), ("diff", "compare")),
        *(("benchmark", "bench"), ("k8s", "deploy"), ("explain", "why"), ("optimize", "tune")),
    ],
)
def test_a_word_of_another_tool_leads_to_the_command(word: str, command: str) -> None:
    assert refused(word) == (
        f"{word!r} is not a command of mlserve",
        f"did you mean mlserve {command}?",
    )


def test_help_about_a_command_leads_to_its_help() -> None:
    assert refused("help", "up")[1] == "did you mean mlserve up --help?"


def test_a_command_like_no_other_gets_them_all_listed() -> None:
    assert refused("frobnicate")[1].startswith("the commands are export, build, deploy, up, down, ")


def test_a_launcher_that_does_not_exist_is_named_whatever_else_is_missing() -> None:
    error, hint = refused("up", "--launcher", "dokcer")
    assert error.startswith(
        "there is no launcher 'dokcer' (there are auto, embedded, native, docker"
    )
    assert hint.startswith("did you mean --launcher docker?")


def test_an_image_in_place_of_a_command_is_for_predict() -> None:
    assert refused("horse.jpg")[1] == "to ask a server about an image: mlserve predict horse.jpg"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("-V",), "did you mean --version? see mlserve --help"),
        (("predict", "x", "--tpo-k", "3"), "did you mean --top-k? see mlserve predict --help"),
        (("predict", "x", "-k", "3"), "did you mean --top-k? see mlserve predict --help"),
        (("predict", "x", "--url", "y"), "did you mean --endpoint? see mlserve predict --help"),
        (("ps", "--json"), "did you mean --output json? see mlserve ps --help"),
        (("up", "--port", "1"), "did you mean --grpc-port? see mlserve up --help"),
        (("up", "--artifacts", "s3://b"), "did you mean --fetch-from? see mlserve up --help"),
        (("up", "--gpu"), "did you mean --provider cuda? see mlserve up --help"),
        (("export", "--dir", "x"), "did you mean --store? see mlserve export --help"),
        (
            ("predict", "x", "--grpc-port", "1"),
            "it is an option of mlserve up; see mlserve predict --help",
        ),
        (("ps", "--bogus"), "see mlserve ps --help"),
    ],
)
def test_an_unknown_option_leads_to_the_one_that_was_meant(
    words: tuple[str, ...], hint: str
) -> None:
    error, said = refused(*words)

    command = "mlserve" if len(words) == 1 else f"mlserve {words[0]}"
    [option] = [word for word in words if word.startswith("-")]
    assert (error, said) == (f"{command} has no option {option}", hint)


def test_an_option_before_its_command_is_told_where_it_stands() -> None:
    assert refused("--model", "m", "predict", "x") == (
        "mlserve has no option --model",
        "options go after the command: mlserve predict --model ...",
    )


@pytest.mark.parametrize(
    ("words", "value", "hint"),
    [
        (("predict", "x", "--top-k", "0"), "0", "give a whole number, 1 or more"),
        (("predict", "x", "--top-k", "many"), "many", "give a whole number, 1 or more"),
        (("up", "--grpc-port", "99999"), "99999", "give a whole number from 0 to 65535"),
        (("predict", "x", "--timeout", "5s"), "5s", "give a number"),
        (("predict", "x", "--output", "jsn"), "jsn", "did you mean json? choose text, json, "),
        (("status", "--protocol", "http"), "http", "choose grpc or rest"),
        (("status", "--api", "kserve"), "kserve", "choose tfs, oip or torchserve"),
        (
            ("export", "--output", "models/"),
            "models/",
            "choose text or json; for a folder to write to or read from, use --store DIR",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_option_and_what_is_valid(
    words: tuple[str, ...], value: str, hint: str
) -> None:
    error, said = refused(*words)

    assert error == f"{value!r} is not a valid value of {words[-2]}"
    assert said.startswith(hint)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("predict",), "mlserve predict needs FILE..."),
        (("compare",), "mlserve compare needs TARGET TARGET... FILE..."),
        (("predict", "x", "--timeout"), "--timeout needs a value"),
        (("up", "--foreground=yes"), "--foreground takes no value"),
    ],
)
def test_what_is_missing_or_too_much_is_named(words: tuple[str, ...], error: str) -> None:
    assert refused(*words)[0] == error


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("status", "localhost:8500"), "did you mean --endpoint localhost:8500?"),
        (("ps", "all"), "see mlserve ps --help"),
    ],
)
def test_a_word_too_many_leads_to_the_option_that_takes_it(
    words: tuple[str, ...], hint: str
) -> None:
    assert refused(*words) == (f"mlserve {words[0]} does not take {words[1]!r}", hint)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("echo", "did you mean --backend echo?"),
        (".", "did you mean --path .?"),
        ("inception_v3", "did you mean --model inception_v3?"),
    ],
)
def test_a_word_for_up_that_is_no_server_leads_to_the_option(word: str, hint: str) -> None:
    error, said = refused("up", word)
    assert error == f"there is no configuration file that describes a server {word!r}"
    assert said.startswith(hint)


@pytest.mark.parametrize(
    "words",
    [
        ("ps", "--bogus", "--output", "json"),
        ("ps", "--output=json", "all"),
        ("predict", "--output", "jsonl"),
        ("serve", "--output", "json"),
        ("--output", "json", "ps"),
        ("up", "--output", "json", "--grpc-port", "many"),
    ],
)
def test_a_wrong_call_that_asks_for_json_gets_its_error_as_json(words: tuple[str, ...]) -> None:
    code, out, err = run(*words)

    error = json.loads(err)["error"]
    assert (code, out) == (ExitCode.USAGE, "")
    assert (error["kind"], error["exit_code"]) == ("usage_error", 2)
    assert error["message"]
    assert error["hint"]


def test_words_behind_two_dashes_are_files_whatever_they_look_like() -> None:
    _, _, err = run("predict", "--endpoint", "host", "--", "--output", "json")

    assert err.startswith("error: 'host' is not an endpoint")


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "x" * 300),
        ("export", "--backend", "echo", "--model", "m", "--weights", "x" * 300),
        ("export", "--backend", "echo", "--model", "echo", "--preprocessor", "x" * 300),
    ],
)
def test_the_content_of_a_file_in_place_of_its_name_is_told(words: tuple[str, ...]) -> None:
    error, hint = refused(*words)
    assert error == f"'{'x' * 80}...' is too long to be the name of a file"
    assert hint == "give the path of the file, not what is in it"


def test_no_word_at_all_shows_the_help() -> None:
    code, out, err = run()

    assert code == ExitCode.USAGE
    assert "Usage: mlserve [OPTIONS] COMMAND" in out + err
    assert "error:" not in err


def test_each_command_prints_its_data_as_text_or_json() -> None:
    """But `logs`, which prints what the server wrote as it is, and groups of commands."""
    group: Any = typer.main.get_command(app)
    for name in group.commands:
        if name not in ("logs", "config", "deploy"):
            error, hint = refused(name, *_NEEDED.get(name, ()), "--output", "folder")
            assert error == "'folder' is not a valid value of --output", name
            assert hint.startswith("choose text"), name


@pytest.mark.server
@pytest.mark.parametrize("words", [("serve",), ("predict",), ("ps", "--bogus"), ("up", "-x")])
def test_a_real_process_says_it_on_stderr_and_ends_with_2(words: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "mlserve", *words]
    as_text = subprocess.run(argv, capture_output=True, text=True, check=False)
    as_json = subprocess.run(
        [*argv, "--output", "json"], capture_output=True, text=True, check=False
    )

    assert [as_text.returncode, as_json.returncode] == [2, 2]
    assert [as_text.stdout, as_json.stdout] == ["", ""]
    error, hint = as_text.stderr.splitlines()
    told = json.loads(as_json.stderr)["error"]
    assert (error, hint) == (f"error: {told['message']}", f"hint: {told['hint']}")


_NEEDED = {"predict": ("x",), "compare": ("x",)}
