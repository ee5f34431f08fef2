"""`mlserve models sign`: sign a version's files with a private key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlserve.cli.arguments import StoreOption
from mlserve.cli.model_arguments import FORMS, BackendFilter, ModelFilter, complete_model
from mlserve.cli.output import OutputFormat, OutputOption, print_json, say
from mlserve.errors import UsageError


def sign(
    reference: Annotated[
        str,
        typer.Argument(
            metavar=FORMS,
            help="The version to sign. Without a version, the pinned one or the latest.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ],
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="PEM file with the private key, on the curve P-256, P-384 or P-521.",
            show_default=False,
        ),
    ],
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the key's password, if it has one."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM file with the key's certificate: whoever trusts the authority that issued "
            "it can check the signature.",
        ),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="PEM file with the certificates between that one and the authority. Repeat it to "
            "give several.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the signature that the version has.")
    ] = False,
    backend: BackendFilter = None,
    model: ModelFilter = None,
    store: StoreOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Sign a version: every file, so that servers can require your signature.

    The signature is `model.sig` in the version's folder, in the format of OpenSSF Model Signing:
    copies and container images have it too. The files are checked first. Needs no network; signing
    without a key, by Sigstore, does, and is not supported.

    To make a pair of keys: `openssl ecparam -name prime256v1 -genkey -noout -out private.pem`, then
    `openssl ec -in private.pem -pubout -out public.pem`.

    For example:

    mlserve models sign inception_v3@2 --key private.pem

    mlserve models sign onnxruntime@1 --key leaf.key --certificate leaf.pem
    """
    from mlserve.credentials import read_file
    from mlserve.inventory import Reference
    from mlserve.signing import SigningKey, is_signed
    from mlserve.signing import sign as sign_folder
    from mlserve.store import Store

    if certificate is None and chain:
        raise UsageError("--chain needs --certificate", hint="give the key's own certificate too")
    if certificate is not None and password_file is not None:
        raise UsageError(
            "a key with a password cannot sign with a certificate",
            hint="decrypt the key first: openssl ec -in FILE -out PLAIN",
        )
    for name, file in (
        ("key", key),
        ("certificate", certificate),
        *(("chain", each) for each in chain or ()),
    ):
        if file is not None:
            read_file(name, file)  # what is wrong with it is said of it, and not of the version
    asked = Reference.parse(reference)
    folder = asked.find(Store(store), backend=backend, model=model)
    signed = folder.usual() if asked.version is None else folder.version(asked.version)
    signed.require_complete()
    signed.artifact.require_whole()
    if is_signed(signed.artifact.path) and not replace:
        raise UsageError(f"{signed} has a signature", hint="--replace puts a new one in its place")
    password = None if password_file is None else read_file("password_file", password_file)
    made = sign_folder(
        signed.artifact.path,
        SigningKey(
            key, None if password is None else password.rstrip(b"\r\n"), certificate, chain or ()
        ),
    )
    if output is OutputFormat.JSON:
        print_json(
            {
                "backend": signed.backend,
                "model": signed.artifact.model,
                "version": signed.artifact.version,
                "path": str(made),
            }
        )
        return
    say(f"{signed} is signed: {made}")
