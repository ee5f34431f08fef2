"""ONNX Runtime's execution providers, under their short names: `--provider cpu`, `cuda`, ..."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from mlserve.backend import RunsOn
from mlserve.errors import ExportError, PluginError
from mlserve.hints import did_you_mean
from mlserve.precision import Precision

AUTO = "auto"
CPU, OPENVINO = "cpu", "openvino"
_SUFFIX = "ExecutionProvider"
_REMOTE = "azure"
"""Sends requests to a remote service; it runs no model, but is in every build."""


def installed() -> dict[str, str]:
    """Map our name of each provider built in to ONNX Runtime's, in its own order."""
    names = onnxruntime.get_available_providers()
    short = {_short(name): name for name in names}
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


def configured(providers: Sequence[str], precision: Precision) -> list[Any]:
    """Return the providers with their options: OpenVINO's is told the precision, always.

    By itself it may take bf16 on a CPU that has it, and fp16 on a GPU.
    """
    on_cpu = "bf16" if precision is Precision.BF16 else "f32"
    on_gpu = "f16" if precision is Precision.FP16 else "f32"
    hints = {"CPU": on_cpu, "GPU": on_gpu}
    config = {device: {"INFERENCE_PRECISION_HINT": hint} for device, hint in hints.items()}
    return [
        (name, {"load_config": json.dumps(config)}) if _short(name) == OPENVINO else name
        for name in providers
    ]


def require_precision(precision: Precision) -> None:
    """Raise ExportError unless a provider of this machine computes in that precision."""
    there = installed()
    if precision is Precision.FP16 and set(there) <= {CPU, OPENVINO}:
        raise ExportError(
            "ONNX Runtime does not compute in fp16 on a CPU: it converts to fp32 and back around "
            "each operation, which is slower than fp32",
            hint="install a build of onnxruntime for your GPU, such as onnxruntime-gpu, or take "
            "--precision int8",
        )
    if precision is Precision.BF16 and OPENVINO not in there and not _multiplies_in_bf16():
        raise ExportError(
            "ONNX Runtime computes in bf16 on arm64 CPUs that have it, and with OpenVINO: this "
            "machine has neither",
            hint="export with --backend openvino or torch, or take --precision int8",
        )


def runs_on(session: Any, precision: Precision) -> RunsOn:
    """Return what a session runs on, and the precision that it really computes in."""
    device = _short(session.get_providers()[0])
    if precision is Precision.BF16 and device != OPENVINO and not _multiplies_in_bf16():
        precision = Precision.FP32
    return RunsOn(f"ONNX Runtime {onnxruntime.__version__}", precision.value, device.upper())


def _multiplies_in_bf16() -> bool:
    """Return whether the CPU is an arm64 one with bf16, which is all that ONNX Runtime uses."""
    if platform.machine() != "aarch64":
        return False
    try:
        return " bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _short(name: str) -> str:
    return name.removesuffix(_SUFFIX).lower()


def is_cpu_only(providers: Sequence[str]) -> bool:
    """Return whether these, in ONNX Runtime's names, are the CPU alone."""
    return list(providers) == [installed()[CPU]]
