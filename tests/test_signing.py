"""Signatures of versions: what a key signed is served, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from mlserve.artifact import MANIFEST_NAME, SIGNATURE_NAME
from mlserve.cli.app import app
from mlserve.credentials import check_files
from mlserve.errors import ModelLoadFailed, PluginError, UsageError
from mlserve.server.models.loading import open_version
from mlserve.server.models.model import Model
from mlserve.server.models.versions import State
from mlserve.server.parts import _signed
from mlserve.settings import ServerSettings
from mlserve.signing import SigningKey, require_signed, sign
from tests.harness.echo import manifest, put_version
from tests.server.models.test_digests import spec

Key = Any
_NO_PASSWORD = serialization.NoEncryption()


def private(path: Path, key: Key, encryption: Any = _NO_PASSWORD) -> Path:
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    return path


def public(path: Path, key: Key) -> Path:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mine.pem`, `mine.pub`, `other.pem` and `other.pub`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private(folder / f"{name}.pem", key)
        public(folder / f"{name}.pub", key)
    return folder


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    """A version's folder, signed with `mine.pem`."""
    folder = put_version(tmp_path / "m" / "1", manifest=manifest(), label="ox")
    sign(folder, SigningKey(keys / "mine.pem"))
    return folder


def edit_manifest(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "elsewhere"}))


def smuggle(folder: Path) -> None:
    (folder / SIGNATURE_NAME).unlink()
    (folder / SIGNATURE_NAME).mkdir()
    (folder / SIGNATURE_NAME / "more.json").touch()


def link(folder: Path) -> None:
    (folder / "echo.json").rename(folder.parent / "echo.json")
    (folder / "echo.json").symlink_to(folder.parent / "echo.json")


def pipe(folder: Path) -> None:
    (folder / SIGNATURE_NAME).unlink()
    os.mkfifo(folder / SIGNATURE_NAME)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no signature": (lambda f: (f / SIGNATURE_NAME).unlink(), "is not signed"),
    "a changed file": (
        lambda f: (f / "echo.json").write_text("{}"),
        "echo.json was changed",
    ),
    "an added file": (lambda f: (f / "more.json").touch(), "more.json"),
    "a hidden file": (lambda f: (f / ".gitignore").touch(), ".gitignore"),
    "a lost file": (lambda f: (f / "labels.txt").unlink(), "labels.txt"),
    "a changed manifest": (edit_manifest, MANIFEST_NAME),
    "a folder in its place": (smuggle, "s a directory"),
    "a link": (link, "echo.json is a symlink"),
    "a pipe in its place": (pipe, "is not a regular file"),
    "not a signature": (lambda f: (f / SIGNATURE_NAME).write_text("{}"), "cannot be checked"),
    "not JSON": (lambda f: (f / SIGNATURE_NAME).write_bytes(b"\xff"), "cannot be checked"),
}


def test_a_signed_version_is_served(signed: Path, keys: Path) -> None:
    require_signed(signed, keys / "mine.pub")
    source = replace(spec(signed.parent), signed_by=keys / "mine.pub")
    open_version(source, 1).runner.close()


@pytest.mark.parametrize("case", TAMPERED)
def test_whatever_else_is_not(signed: Path, keys: Path, case: str) -> None:
    tamper, named = TAMPERED[case]
    tamper(signed)
    with pytest.raises(ModelLoadFailed) as found:
        require_signed(signed, keys / "mine.pub")
    assert str(signed) in found.value.message
    assert named in found.value.message
    assert "digest_value" not in found.value.message
    assert "allow_symlinks" not in found.value.message
    assert found.value.hint


def test_another_key_is_named(signed: Path, keys: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"was not signed by .*other\.pub"):
        require_signed(signed, keys / "other.pub")


def test_a_signature_that_leaves_a_file_out_does_not_hold(signed: Path, keys: Path) -> None:
    """The key's owner can make one with other tools: its model could be exchanged unnoticed."""
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=keys / "mine.pem")
    left_out = hashing.Config().set_ignored_paths(paths=["echo.json", SIGNATURE_NAME])
    config.set_hashing_config(left_out).sign(signed, signed / SIGNATURE_NAME)
    with pytest.raises(ModelLoadFailed, match=r"leaves out echo\.json"):
        require_signed(signed, keys / "mine.pub")


@pytest.mark.server
def test_the_format_is_that_of_the_openssf_command(signed: Path, keys: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "model_signing", *arguments]
        return subprocess.run(argv, check=False, text=True, capture_output=True)

    signature = str(signed / SIGNATURE_NAME)
    checked = ("--signature", signature, "--public_key", str(keys / "mine.pub"), str(signed))
    result = run("verify", "key", *checked)
    assert result.returncode == 0, result.stdout + result.stderr
    (signed / SIGNATURE_NAME).unlink()
    made = ("--signature", signature, "--private_key", str(keys / "other.pem"), str(signed))
    result = run("sign", "key", *made)
    assert result.returncode == 0, result.stdout + result.stderr
    require_signed(signed, keys / "other.pub")


def bad_keys(folder: Path) -> dict[str, Path]:
    (folder / "words").write_text("no key")
    (folder / "certificate").write_text(
        "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"
    )
    return {
        "another curve": public(folder / "k1", ec.generate_private_key(ec.SECP256K1())),
        "another kind": public(folder / "ed", ed25519.Ed25519PrivateKey.generate()),
        "a private key": private(folder / "p", ec.generate_private_key(ec.SECP256R1())),
        "words": folder / "words",
        "a folder": folder,
        "nothing": folder / "absent",
        "a damaged certificate": folder / "certificate",
    }


def test_what_cannot_check_is_named_before_a_server_starts(tmp_path: Path) -> None:
    for case, path in bad_keys(tmp_path).items():
        with pytest.raises(UsageError, match="--require-signature") as found:
            check_files(ServerSettings(require_signature=path))
        assert str(path) in found.value.message, case
        assert found.value.hint, case


def test_without_the_library_it_says_what_to_install(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.hashing", None)
    monkeypatch.delitem(sys.modules, "mlserve.openssf", raising=False)
    monkeypatch.delattr("mlserve.openssf", raising=False)
    with pytest.raises(PluginError, match="--require-signature needs model_signing") as found:
        check_files(ServerSettings(require_signature=keys / "mine.pub"))
    assert "[signing]" in str(found.value.hint)


def test_a_new_version_that_is_not_signed_is_refused_and_the_good_one_goes_on(
    signed: Path, keys: Path
) -> None:
    async def check() -> None:
        open_ = _signed(open_version, keys / "mine.pub")
        model = Model(spec(signed.parent), lambda: None, open_)
        await model.find()
        await model.load()
        put_version(signed.parent / "2", manifest=manifest(), label="zebra")
        for _ in range(3):
            await model._update()
        states = {status.version: status for status in model.statuses()}
        assert states[1].state is State.AVAILABLE
        assert "2 is not signed" in str(states[2].error)
        with model.lease(None) as served:
            assert served.version == 1
        sign(signed.parent / "2", SigningKey(keys / "mine.pem"))
        for _ in range(3):
            await model._update()
        with model.lease(None) as served:
            assert served.version == 2
        await model.close()

    asyncio.run(check())


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An authority's certificate, a certificate that it issued, and the key of that."""
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ca", "leaf")]
    ca, leaf = (ec.generate_private_key(ec.SECP384R1()) for _ in names)
    now = datetime.now(UTC)

    def certificate(name: int, key: Key, *, is_ca: bool) -> x509.Certificate:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        return (
            x509.CertificateBuilder(names[0], names[name], key.public_key(), name + 1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usage,
                    encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(ca, hashes.SHA256())
        )  # fmt: skip

    paths = tmp_path / "ca.pem", tmp_path / "leaf.pem"
    made = certificate(0, ca, is_ca=True), certificate(1, leaf, is_ca=False)
    for path, issued in zip(paths, made, strict=True):
        path.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    return *paths, private(tmp_path / "leaf.key", leaf)


def test_a_certificate_is_checked_by_its_authority(
    tmp_path: Path, authority: tuple[Path, Path, Path], keys: Path
) -> None:
    ca, leaf, key = authority
    folder = put_version(tmp_path / "m" / "1", manifest=manifest())
    sign(folder, SigningKey(key, certificate=leaf))
    require_signed(folder, ca)
    with pytest.raises(ModelLoadFailed, match="cannot be checked"):
        require_signed(folder, keys / "mine.pub")
    with pytest.raises(UsageError, match="does not match"):
        sign(folder, SigningKey(keys / "mine.pem", certificate=leaf))
    sign(folder, SigningKey(keys / "mine.pem"))
    with pytest.raises(ModelLoadFailed, match="cannot be checked"):
        require_signed(folder, ca)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_the_commands(export: Callable[..., Path], keys: Path, tmp_path: Path) -> None:
    base = export()
    mine, checks = ("--key", str(keys / "mine.pem")), ("--key", str(keys / "mine.pub"))
    code, out, _ = run("verify", *checks)
    assert (code, out) == (8, "echo/m@1  not signed\n")
    assert run("sign", "m", *mine)[:2] == (0, f"echo/m@1 is signed: {base}/1/{SIGNATURE_NAME}\n")
    assert run("verify")[1] == "echo/m@1  ok\n"
    assert run("verify", *checks)[:2] == (0, "echo/m@1  ok, signed\n")
    listed = json.loads(run("show", "--output", "json")[1])
    assert listed["has_signature"]
    code, _, err = run("sign", "m", *mine)
    assert code == 2
    assert "echo/m@1 has a signature" in err
    assert run("sign", "m", "--key", str(keys / "other.pem"), "--replace")[0] == 0
    assert run("verify", *checks, "--output", "json")[0] == 8
    run("sign", "m", *mine, "--replace")
    assert run("copy", "m", "--to-version", "2")[0] == 0
    assert run("copy", "m", "--to-store", str(tmp_path / "other"))[0] == 0
    require_signed(tmp_path / "other/echo/m/2", keys / "mine.pub")
    code, _, err = run("copy", "m@1", "--to-model", "n")
    assert "the copy has another name, so it is not signed" in err
    assert run("verify", "m", *checks)[:2] == (0, "echo/m@1  ok, signed\necho/m@2  ok, signed\n")


def test_keys_that_cannot_sign(export: Callable[..., Path], tmp_path: Path) -> None:
    base = export()
    locked = private(
        tmp_path / "locked",
        ec.generate_private_key(ec.SECP521R1()),
        serialization.BestAvailableEncryption(b"horse"),
    )
    (tmp_path / "words").write_text("no key")
    for name in ("locked", "words", "absent"):
        code, _, err = run("sign", "m", "--key", str(tmp_path / name))
        assert code == 2
        assert str(tmp_path / name) in err
        assert "hint: " in err
    assert "(--key) cannot be read: No such file or directory" in err
    assert "hint: give the path" in err
    (tmp_path / "password").write_text("horse\n")
    code, _, _ = run(
        "sign", "m", "--key", str(locked), "--password-file", str(tmp_path / "password")
    )
    assert code == 0
    assert [path.name for path in (base / "1").iterdir() if path.name.startswith(".")] == []
