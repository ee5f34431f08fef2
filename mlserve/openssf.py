"""The calls of OpenSSF's library `model_signing`; imported late, as it brings many others."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from model_signing.hashing import Config as HashingConfig
from model_signing.signing import Config as SigningConfig
from model_signing.verifying import Config as VerifyingConfig

from mlserve.artifact import SIGNATURE_NAME, read_plain
from mlserve.signing import BadKey, BadSignature, SigningKey

_MOST_BYTES = 16 * 2**20
"""The largest signature that is read; one has about 200 bytes for each file."""
_LEFT_OUT = {SIGNATURE_NAME, ".git", ".gitattributes", ".github", ".gitignore"}
"""What a signature may say it leaves out: the `model_signing` command always names the last four.
They are not left out here."""


class _EveryFile(HashingConfig):  # type: ignore[misc]  # the library has no types
    """Hashes every file but the signature, whatever the signature says should be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)

    def add_ignored_paths(self, *, model_path: Any, paths: Iterable[Any]) -> None:
        """Look at what the signature leaves out. Raises BadSignature for a file of the model."""
        others = sorted({str(path) for path in paths} - _LEFT_OUT)
        if others:
            raise BadSignature(f"has a signature that leaves out {', '.join(others)}")


def sign(folder: Path, into: Path, key: SigningKey) -> None:
    """Write the signature of all files in `folder`. Raises BadKey, BadSignature and OSError."""
    config = _signer(key).set_hashing_config(_EveryFile())
    try:
        config.sign(folder, into)
    except ValueError as error:  # links, and what is not a file
        raise BadSignature(f"cannot be signed: {_link(str(error)) or error}") from error


def _signer(key: SigningKey) -> Any:
    pem = key.private.read_bytes()
    try:
        load_pem_private_key(pem, key.password)
        config = SigningConfig()
        if key.certificate is None:
            return config.use_elliptic_key_signer(private_key=key.private, password=key.password)
        return config.use_certificate_signer(
            private_key=key.private,
            signing_certificate=key.certificate,
            certificate_chain=key.chain or [key.certificate],  # the library reads one at least
        )
    except OSError:
        raise
    except TypeError as error:  # one of the two has a password and the other has none
        raise BadKey(str(error)) from error
    except Exception as error:
        raise BadKey(_reason(error)) from error


def verifier(key: Path) -> Any:
    """Return what checks signatures by the public key, or the authority, in a PEM file.

    Raises BadKey and OSError.
    """
    pem = key.read_bytes()
    config = VerifyingConfig().set_hashing_config(_EveryFile())
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            return config.use_certificate_verifier(certificate_chain=[key])
        if b"PRIVATE KEY-----" in pem:
            raise BadKey("it is a private key, which only signs")
        load_pem_public_key(pem)
        return config.use_elliptic_key_verifier(public_key=key)
    except (OSError, BadKey):
        raise
    except Exception as error:
        raise BadKey(_reason(error)) from error


def verify(folder: Path, signature: Path, key: Path) -> None:
    """Check that the files in `folder` are those that the key signed.

    Raises BadSignature if not, OSError for files that cannot be read, and BadKey.
    """
    try:
        data = read_plain(signature, _MOST_BYTES)
    except ValueError as error:
        raise BadSignature(f"has a {SIGNATURE_NAME} that is not a signature: {error}") from error
    config = verifier(key)
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / SIGNATURE_NAME
        copy.write_bytes(data)  # the library reads it by name, and would wait for a pipe
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it prints a warning
                config.verify(folder, copy)
        except (BadSignature, OSError):
            raise
        except InvalidSignature as error:
            raise BadSignature(f"was not signed by {key}") from error
        except Exception as error:
            raise BadSignature(_in_words(error, key)) from error


_MISMATCH = re.compile(
    r"Hash mismatch for \\?'(.+?)\\?': Expected .+?, Actual .+?\)\\?'", re.DOTALL
)
"""How the library says that a file has another digest; it writes both as bytes of Python."""
_QUOTES = "[]\"'"


def _link(text: str) -> str:
    """Return which file is a link, if the library's error is about one; else nothing."""
    found = re.match(r"Cannot use '(.+)' because it is a symlink", text)
    return "" if found is None else f"{found[1]} is a symlink"


def _in_words(error: Exception, key: Path) -> str:
    text = str(error)
    if text.startswith("Signature mismatch: "):
        found = _MISMATCH.sub(r"\1 was changed", text.removeprefix("Signature mismatch: "))
        return f"does not have the files that were signed: {found.strip(_QUOTES)}"
    if link := _link(text):
        return f"does not have the files that were signed: {link}"
    if text.startswith("Key mismatch") or type(error).__name__ == "X509StoreContextError":
        return f"was not signed by {key}: {text.strip()}"
    return f"has a {SIGNATURE_NAME} that cannot be checked with {key}: {_reason(error)}"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
