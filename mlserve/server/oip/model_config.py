"""The configuration of a model as Triton's model configuration extension describes it.

What mlserve has no word for there is left out: no instance groups, no optimisations.
"""

from __future__ import annotations

from typing import Any

from mlserve.server.models.versions import VersionPolicy
from mlserve.server.oip.request import datatype_of
from mlserve.server.work.batching import is_batchable
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature, TensorSpec

_MICROSECONDS = 1_000_000


def model_config(
    model: str,
    backend: str,
    platform: str,
    policy: VersionPolicy,
    signature: Signature,
    settings: ServerSettings,
) -> dict[str, Any]:
    """The message ModelConfig as JSON has it, of that signature of a model.

    `max_batch_size` is what one request may have, and 0 for a signature without a batch dimension;
    above 0 the `dims` are without that dimension. Raises InvalidInput for a type without a name.
    """
    has_batches = is_batchable(signature)
    config: dict[str, Any] = {
        "name": model,
        "platform": platform,
        "backend": backend,
        "version_policy": _policy(policy),
        "max_batch_size": settings.max_batch_length if has_batches else 0,
        "input": [
            {
                **_tensor(spec, has_batches=has_batches),
                **({"optional": True} if spec.name in signature.optional else {}),
            }
            for spec in signature.inputs
        ],
        "output": [_tensor(spec, has_batches=has_batches) for spec in signature.outputs],
    }
    if has_batches and settings.max_batch_size > 1:
        delay = round(settings.max_batch_delay * _MICROSECONDS)
        config["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return config


def _policy(policy: VersionPolicy) -> dict[str, Any]:
    if policy.serves_all:
        return {"all": {}}
    if policy.versions:
        return {"specific": {"versions": list(policy.versions)}}
    return {"latest": {"num_versions": policy.latest}}


def _tensor(spec: TensorSpec, *, has_batches: bool) -> dict[str, Any]:
    sizes = (None,) if spec.shape is None else spec.shape[1:] if has_batches else spec.shape
    datatype = datatype_of(spec)
    return {
        "name": spec.name,
        "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
        "dims": [-1 if size is None else size for size in sizes],
    }
