"""Signatures of version folders, in the format of OpenSSF Model Signing.

A signature covers every file of the folder, the manifest too, and lies beside them as `model.sig`.
The library `model-signing` makes and checks it (`mlserve.openssf`); it is the extra `signing`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mlserve.artifact import SIGNATURE_NAME
from mlserve.errors import ModelLoadFailed, UsageError, shortened

_LONGEST_REASON = 400


class BadKey(Exception):
    """A file is not a key or a certificate that can sign or check; the text says why."""


class BadSignature(Exception):
    """A signature does not hold; the text, which follows the folder's path, says why."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What to sign with: PEM files.

    `private` is the private key, on one of the curves P-256, P-384 and P-521. `password` decrypts
    it. With `certificate`, which is that of the key, the signature is checked by the authority that
    issued it; `chain` are the certificates between the two.
    """

    private: Path
    password: bytes | None = None
    certificate: Path | None = None
    chain: Sequence[Path] = ()


def sign(folder: Path, key: SigningKey) -> Path:
    """Sign all files of a version's folder; return the path of the signature.

    It appears whole, and takes the place of another one. Raises UsageError for a key that cannot
    sign and for a folder with links or that cannot be written, PluginError without the library.
    """
    library = _library("signing a model")
    path = folder / SIGNATURE_NAME
    aside = folder / f".{SIGNATURE_NAME}-{secrets.token_hex(8)}"
    try:
        try:
            library.sign(folder.resolve(), aside, key)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except BadKey as error:
        raise UsageError(
            f"{key.private} cannot sign: {error}",
            hint="give a PEM file with the private key of an elliptic curve; to make one: "
            "openssl ecparam -name prime256v1 -genkey -noout -out FILE",
        ) from error
    except BadSignature as error:
        raise UsageError(f"{folder} {error}", hint="copy the files in place of the links") from None
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be read or written: {error.strerror or error}",
            hint="make room or fix the permissions",
        ) from error
    return path


def is_signed(folder: Path) -> bool:
    """Return whether the folder has a signature, which need not hold."""
    return os.path.lexists(folder / SIGNATURE_NAME)


def require_key(key: Path, option: str) -> None:
    """Raise UsageError, naming the option, unless the file can check signatures.

    Raises PluginError without the library.
    """
    library = _library(option)
    try:
        library.verifier(key)
    except BadKey as error:
        raise _not_a_key(key, error, option) from error
    except OSError as error:
        raise UsageError(
            f"{key} ({option}) cannot be read: {error.strerror or error}",
            hint="give the path of a file that this user may read",
        ) from error


def require_signed(folder: Path, key: Path) -> None:
    """Raise ModelLoadFailed unless all files of the folder are those that this key signed.

    `key` is the PEM file of a public key, or the certificates of an authority. Reads every file,
    and hands none to a runtime. Raises UsageError for a key that cannot check, PluginError without
    the library.
    """
    require_key(key, option="--require-signature")
    if not is_signed(folder):
        raise ModelLoadFailed(
            f"{folder} is not signed",
            hint="sign it (mlserve models sign), or serve a version that is signed",
        )
    try:
        _library("checking a signature").verify(folder.resolve(), folder / SIGNATURE_NAME, key)
    except (BadSignature, OSError) as error:
        reason = shortened(str(error), _LONGEST_REASON)
        raise ModelLoadFailed(
            f"{folder} {reason}",
            hint="copy this version again from where it was signed, or sign it again; "
            "`mlserve models verify --key FILE` checks it",
        ) from error


def _not_a_key(key: Path, error: BadKey, option: str) -> UsageError:
    return UsageError(
        f"{key} ({option}) cannot check signatures: {error}",
        hint="give the PEM file of the public key, or of an authority's certificate; to get the "
        "public key: openssl ec -in PRIVATE -pubout -out FILE",
    )


def _library(what: str) -> ModuleType:
    try:
        from mlserve import openssf
    except ImportError as error:
        from mlserve.distributions import CORE, install_command, not_installed

        raise not_installed(
            what, error.name or "model_signing", hint=install_command(f"{CORE}[signing]")
        ) from error
    return openssf
