"""Dockerfile texts for images of mlserve's own server and of third-party servers.

They use no BuildKit-only features, so that every builder can build them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from mlserve.backend import ServerSpec
from mlserve.settings import GRPC_PORT, REST_PORT

USER = "10001:10001"
"""User and group of the server process: not used by the base image."""
PYTHON_IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
"""The same Python as here: the constraints are the versions that work with it."""

_OURS = """\
# An image that serves one version of a model with mlserve's own server. Written by `mlserve build`.
ARG BASE_IMAGE={base}
FROM ${{BASE_IMAGE}}
ENV HOME=/tmp PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Third-party packages come first: neither new code nor a new model installs them again.
COPY install/constraints.txt install/dependencies.txt /install/
RUN pip install --no-cache-dir -c /install/constraints.txt -r /install/dependencies.txt
COPY install/own.txt /install/
COPY install/wheels /install/wheels
RUN pip install --no-cache-dir -c /install/constraints.txt -r /install/own.txt && rm -r /install
COPY install/healthcheck.py /usr/local/bin/

COPY model {folder}
{labels}
USER {user}
EXPOSE {grpc} {rest}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \\
    CMD ["python", "-I", "-S", "/usr/local/bin/healthcheck.py"]
ENTRYPOINT {entrypoint}
"""
_OTHERS = """\
# An image that serves one version of a model with {executable}. Written by `mlserve build`.
# It does not finish its requests on SIGTERM, and as the first process it ignores the signal: run it
# with --init.
ARG BASE_IMAGE={base}
FROM ${{BASE_IMAGE}}
COPY model {folder}
{labels}
USER {user}
EXPOSE {grpc} {rest}
ENTRYPOINT {entrypoint}
"""
_FILES = """\
# An image with a version's files and no server, for KServe. Written by `mlserve build`.
ARG BASE_IMAGE={base}
FROM ${{BASE_IMAGE}}
COPY models /models/
{labels}
"""
HEALTHCHECK = Path(__file__).with_name("healthcheck.py")
"""Readiness check in images of mlserve's own server."""


def of_built(backend: str, model: str, version: int, base: str, labels: Mapping[str, str]) -> str:
    """Return the Dockerfile of mlserve's own server; `docker run` arguments are its settings."""
    base_path = f"/models/{model}"
    entrypoint = [*("python", "-P", "-m", "mlserve.server"), "--backend", backend]
    entrypoint += [f"--model={model}", "--base-path", base_path, "--host", "0.0.0.0"]
    return _OURS.format(
        base=base,
        folder=f"{base_path}/{version}/",
        labels=_labels(labels),
        user=USER,
        grpc=GRPC_PORT,
        rest=REST_PORT,
        entrypoint=json.dumps(entrypoint),
    )


def of_published(spec: ServerSpec, version: int, base: str, labels: Mapping[str, str]) -> str:
    """Return the Dockerfile of a third-party server; `docker run` arguments are further flags."""
    assert spec.image is not None
    return _OTHERS.format(
        base=base,
        executable=spec.executable,
        folder=f"{spec.image.base_path}/{version}/",
        labels=_labels(labels),
        user=USER,
        grpc=GRPC_PORT,
        rest=REST_PORT,
        entrypoint=json.dumps([spec.executable, *spec.argv]),
    )


def of_artifact(base: str, labels: Mapping[str, str]) -> str:
    """Return the Dockerfile of an image with the folder of versions on another image."""
    return _FILES.format(base=base, labels=_labels(labels))


def _labels(labels: Mapping[str, str]) -> str:
    return "LABEL " + " \\\n      ".join(
        f"{key}={json.dumps(value, ensure_ascii=False).replace('$', chr(92) + '$')}"
        for key, value in labels.items()
    )
