"""Addresses: what is one, what of it is shown, and where its copy lies."""

from __future__ import annotations

import pytest

from mlserve.errors import ExportError, UsageError
from mlserve.remote.address import Address, is_remote, parse_digest, safe_name

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/m.onnx", True),
        ("S3://bucket/key", True),
        ("models:/name/1", True),
        ("runs:/id/model", True),
        ("ftp://h/m", True),
        ("model.onnx", False),
        ("/data/models:/x", False),
        ("random", False),
        ("models", False),
    ],
)
def test_what_is_an_address(text: str, expected: bool) -> None:
    assert is_remote(text) is expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@h:8/a%20b.onnx", "https://h:8/a%20b.onnx"),
        ("https://h/m.onnx?X-Amz-Signature=secret&version=3", "https://h/m.onnx?X-Amz-Signature=...&version=3"),
        ("https://h/m?token=secret", "https://h/m?token=..."),
        ("https://h/m?secret&raw=1", "https://h/m?...&raw=1"),
        ("models:/name@prod", "models:/name@prod"),
        ("hf://org/name@main/m.onnx", "hf://org/name@main/m.onnx"),
    ],
)  # fmt: skip
def test_no_secret_is_shown(text: str, shown: str) -> None:
    assert Address.parse(text).shown == shown
    assert "secret" not in repr(Address.parse(text).shown)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:secret@[::1/m",
        "https://me:secret@h:x/m",
        "https://me:secret/part@h/m",  # what is not escaped cuts the address within the password
        "https://me:secret#part@h/m",
        "https://me:secret?part@h/m",
        "s3://me:secret/part@bucket/m",
    ],
)
def test_an_address_that_is_not_valid_shows_none_either(text: str) -> None:
    with pytest.raises(UsageError, match="not a valid address") as raised:
        Address.parse(text)
    assert "secret" not in f"{raised.value.message}{raised.value.hint}"


@pytest.mark.parametrize("text", ["https://h/m#secret", "ftp://me:secret/part@h/m"])
def test_nor_does_one_that_is_not_understood(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        Address.parse(text)
    assert "secret" not in f"{raised.value.message}{raised.value.hint}"


def test_a_digest_is_part_of_the_address_or_given_beside_it() -> None:
    assert Address.parse(f"s3://b/k#sha256={HEX.upper()}").digest == HEX
    assert Address.parse("s3://b/k", f"sha256:{HEX}").digest == HEX
    assert Address.parse("s3://b/k#1").digest is None
    with pytest.raises(UsageError, match=r"two digests: abab.* and cdcd"):
        Address.parse(f"s3://b/k#sha256={HEX}", "cd" * 32)
    for wrong in ("", "ab", "xy" * 32):
        with pytest.raises(UsageError, match="is not a SHA-256 digest"):
            Address.parse(f"https://h/m#sha256={wrong}")
        with pytest.raises(UsageError, match="is not a SHA-256 digest"):
            Address.parse("https://h/m", wrong)
    with pytest.raises(UsageError, match="'abc' is not a SHA-256 digest"):
        parse_digest("abc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://h/m", "mlserve fetches nothing from ftp://"),
        ("htps://h/m", "mlserve fetches nothing from htps://"),
        ("https:///m.onnx", "it names no server"),
        ("s3:///key", "it names no bucket"),
        ("s3://key:secret@bucket/m", "takes no user name or password"),
        ("https://h/m#md5=12", "what follows # is not understood"),
    ],
)
def test_what_is_not_valid_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Address.parse(text)


def test_a_scheme_that_is_misspelt_is_guessed() -> None:
    with pytest.raises(UsageError) as raised:
        Address.parse("htps://h/m")
    assert str(raised.value.hint).startswith("did you mean https?")


def test_one_file_has_one_place_however_it_is_signed() -> None:
    keys = {
        Address.parse(f"https://{user}h/m.onnx?X-Amz-Signature={sign}&X-Amz-Date={sign}").key
        for user in ("", "me:pw@")
        for sign in ("1", "2")
    }
    assert len(keys) == 1
    others = ["https://h/m.onnx?id=1", "https://h/m.onnx?id=2", "s3://b/k", "s3://b/k#1"]
    assert len({Address.parse(other).key for other in others}) == len(others)


def test_each_server_has_its_own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for place in ("http://a", "http://b"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        keys |= {Address.parse("models:/tiny/1").key, Address.parse("https://h/m.onnx").key}
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", "", ".", "a\\..\\b"])
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="which would lie outside its folder"):
        safe_name(name, "https://h/m")


@pytest.mark.parametrize("name", ["a\0", "a\nb", "\x1b[31mb.onnx"])
def test_a_name_that_cannot_be_printed_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="has characters that cannot be printed"):
        safe_name(name, "https://h/m")


def test_other_names_are_kept() -> None:
    assert safe_name("variables/variables.index", "x") == "variables/variables.index"
    assert safe_name("..m..onnx", "x") == "..m..onnx"
