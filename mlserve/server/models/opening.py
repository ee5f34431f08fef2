"""Opens a version of a model: its files, its Runner, and the Runner's first request."""

from __future__ import annotations

import logging

from mlserve.artifact import Artifact
from mlserve.errors import MlserveError, ModelLoadFailed, PluginError, UsageError, reason_of
from mlserve.server.boundary import without_frames
from mlserve.server.models.loaded import LoadedVersion
from mlserve.server.models.served import ServedModel
from mlserve.server.models.warmup import warm_up

_log = logging.getLogger(__name__)


def open_version(source: ServedModel, version: int) -> LoadedVersion:
    """The version, loaded and warmed. Can take minutes, and raises nothing but MlserveError.

    A version that fails its first request is closed. The error has no traceback and no cause, whose
    frames would keep the model in memory for as long as the error is shown.
    """
    try:
        return _open(source, version)
    except MlserveError as error:
        raise without_frames(error) from None


def _open(source: ServedModel, version: int) -> LoadedVersion:
    try:
        artifact = Artifact.open(source.base_path, source.model, version)
        runner = source.backend.load(artifact, source.options)
        try:
            warm_up(artifact, runner)
        except BaseException:
            runner.close()
            raise
    except UsageError as error:  # a manifest that cannot be read
        raise ModelLoadFailed(error.message, hint=error.hint) from error
    except MlserveError:
        raise
    except ImportError as error:
        raise PluginError(
            f"the backend {source.backend.name!r} cannot be used: {reason_of(error)}",
            hint=source.backend.install_hint,
        ) from error
    except BaseException as error:  # a panic in a runtime written in Rust is no Exception
        _log.exception("version %d of %s failed to load", version, source.model)
        raise ModelLoadFailed(
            f"version {version} failed to load: {reason_of(error)}",
            hint="the server's log has the traceback",
        ) from error
    return LoadedVersion(artifact, runner)
