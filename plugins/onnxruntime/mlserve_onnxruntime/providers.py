"""ONNX Runtime's execution providers, under their short names: `--provider cpu`, `cuda`, ..."""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime

from mlserve.errors import PluginError
from mlserve.hints import did_you_mean

AUTO = "auto"
CPU = "cpu"
_SUFFIX = "ExecutionProvider"
_REMOTE = "azure"
"""Sends requests to a remote service; it runs no model, but is in every build."""


def installed() -> dict[str, str]:
    """Map our name of each provider built in to ONNX Runtime's, in its own order."""
    names = onnxruntime.get_available_providers()
    short = {name.removesuffix(_SUFFIX).lower(): name for name in names}
    return {ours: theirs for ours, theirs in short.items() if ours != _REMOTE}


def providers_for(wanted: str | None) -> Sequence[str]:
    """Return ONNX Runtime's names of the providers to use, the preferred one first.

    `auto` (or None) takes all, in the order that ONNX Runtime recommends; the CPU always comes
    last, for what a device cannot do. Raises PluginError for a provider that is not installed.
    """
    known = installed()
    if wanted in (None, AUTO):
        return list(known.values())
    if wanted not in known:
        raise PluginError(
            f"the execution provider {wanted!r} is not installed (installed: {', '.join(known)})",
            hint=did_you_mean(str(wanted), known, "--provider ")
            + "leave --provider out, or install the build of onnxruntime that has it, such as "
            "onnxruntime-gpu (cuda) or onnxruntime-openvino (openvino)",
        )
    return list(dict.fromkeys([known[str(wanted)], known[CPU]]))


def is_cpu_only(providers: Sequence[str]) -> bool:
    """Return whether these, in ONNX Runtime's names, are the CPU alone."""
    return list(providers) == [installed()[CPU]]
