"""A whole request in JSON: TensorFlow Serving's form, or that of the Open Inference Protocol.

TensorFlow Serving: https://www.tensorflow.org/tfx/serving/api_rest#predict_api
Open Inference: https://github.com/kserve/open-inference-protocol (REST, inference request)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import InvalidInput, UsageError, shortened
from mlserve.rows.cells import BYTES_KEY, input_value
from mlserve.rows.kinds import is_request
from mlserve.tensors import Signature, TensorSpec

_FORMS = (
    'give {"instances": [...]} or {"inputs": {"x": ...}} as for TensorFlow Serving, or '
    '{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [...]}]} as for Open '
    "Inference"
)
_TFS_KEYS = frozenset(("signature_name", "instances", "inputs"))
_OIP_KEYS = frozenset(("id", "parameters", "inputs", "outputs"))
_TENSOR_KEYS = frozenset(("name", "shape", "datatype", "data"))
_PARAMETERS = frozenset(("signature", "binary_data_output"))
_OUTPUT_KEYS = frozenset(("name", "parameters"))
_OUTPUT_PARAMETERS = frozenset(("binary_data",))
_OUTPUTS = 'for example "outputs": [{"name": "y"}]'


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """A request: the signature and the outputs that it names, and how to find its inputs.

    `inputs(signature)` raises InvalidInput for what does not fit the signature.
    """

    signature: str | None
    outputs: tuple[str, ...] | None
    inputs: Callable[[Signature], dict[str, Any]]


def parse_request(file: str, data: Any) -> JsonRequest:
    """Return the request in the data of a JSON file. Raises UsageError, naming what is wrong."""
    if not is_request(data):
        raise UsageError(f"{file} is not a request", hint=_FORMS)
    if _is_open_inference(data):
        return _open_inference(file, data)
    _require_keys(file, "the request", data, _TFS_KEYS)
    if "instances" in data and "inputs" in data:
        raise UsageError(f"{file} has both instances and inputs", hint="give one of the two")
    name = data.get("signature_name")
    if name is not None and not isinstance(name, str):
        raise UsageError(f"the signature_name in {file} is not a string", hint=_FORMS)
    find = _rows if "instances" in data else _columns
    sent = data["instances"] if "instances" in data else data["inputs"]
    return JsonRequest(name, None, lambda signature: find(file, sent, signature))


def _is_open_inference(data: Mapping[str, Any]) -> bool:
    inputs = data.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        return False
    return all(isinstance(item, Mapping) and {"name", "data"} <= item.keys() for item in inputs)


def _rows(file: str, instances: Any, signature: Signature) -> dict[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise InvalidInput(f"instances in {file} is not a list of rows", hint=_FORMS)
    if not all(_is_row(item) for item in instances):
        spec = _only_input(file, signature)
        return {spec.name: input_value(spec, instances)}
    names = list(instances[0])
    for at, row in enumerate(instances):
        if row.keys() != set(names):
            raise InvalidInput(
                f"instances[{at}] in {file} has the keys {', '.join(row) or 'none'}, and "
                f"instances[0] has {', '.join(names) or 'none'}",
                hint="give every row the same inputs",
            )
    return {name: _named(signature, name, [row[name] for row in instances]) for name in names}


def _columns(file: str, inputs: Any, signature: Signature) -> dict[str, Any]:
    if _is_row(inputs):
        return {name: _named(signature, name, value) for name, value in inputs.items()}
    spec = _only_input(file, signature)
    return {spec.name: input_value(spec, inputs)}


def _is_row(value: Any) -> bool:
    """Return whether it is an object of inputs, and not bytes in base64."""
    return isinstance(value, Mapping) and value.keys() != {BYTES_KEY}


def _only_input(file: str, signature: Signature) -> TensorSpec:
    if len(signature.required) == 1:
        return signature.required[0]
    names = ", ".join(spec.name for spec in signature.inputs)
    raise InvalidInput(
        f"{file} does not name its inputs, and the signature {signature.name} has several: {names}",
        hint='name them: {"inputs": {"NAME": ...}}',
    )


def _named(signature: Signature, name: str, value: Any) -> Any:
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    return value if spec is None else input_value(spec, value)


def _open_inference(file: str, data: Mapping[str, Any]) -> JsonRequest:
    _require_keys(file, "the request", data, _OIP_KEYS)
    tensors = data["inputs"]
    for tensor in tensors:
        _require_keys(file, f"the input {tensor['name']!r}", tensor, _TENSOR_KEYS)
    _require_names(file, "input", tensors)
    parameters = _object(file, "the request's parameters", data.get("parameters"))
    _require_keys(file, "the request's parameters", parameters, _PARAMETERS)
    return JsonRequest(
        parameters.get("signature"),
        _outputs(file, data.get("outputs")),
        lambda found: {t["name"]: _tensor(file, t, found) for t in tensors},
    )


def _outputs(file: str, outputs: Any) -> tuple[str, ...] | None:
    """Return the names of the outputs that are wanted; None for all of them."""
    if not outputs:
        return None
    if not isinstance(outputs, list) or not all(isinstance(item, Mapping) for item in outputs):
        raise UsageError(f"outputs in {file} is not a list of objects", hint=_OUTPUTS)
    _require_names(file, "output", outputs)
    for output in outputs:
        what = f"the output {output['name']!r}"
        _require_keys(file, what, output, _OUTPUT_KEYS)
        parameters = _object(file, f"the parameters of {what}", output.get("parameters"))
        _require_keys(file, f"the parameters of {what}", parameters, _OUTPUT_PARAMETERS)
    return tuple(output["name"] for output in outputs)


def _require_names(file: str, kind: str, tensors: Sequence[Mapping[str, Any]]) -> None:
    """Raise UsageError unless each tensor has a name of its own."""
    names = [tensor.get("name") for tensor in tensors]
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"an {kind} in {file} has no name", hint=_FORMS)
        if names.count(name) > 1:
            raise UsageError(
                f"the {kind} {shortened(name)!r} is in {file} twice", hint=f"give each {kind} once"
            )


def _object(file: str, what: str, value: Any) -> Mapping[str, Any]:
    """Return a value that must be an object, if it is there; an empty one if not."""
    if value is not None and not isinstance(value, Mapping):
        raise UsageError(f"{what} in {file}: {shortened(str(value))} is not an object", hint=_FORMS)
    return value or {}


def _tensor(file: str, tensor: Mapping[str, Any], signature: Signature) -> Any:
    name, datatype, shape = tensor["name"], tensor.get("datatype"), tensor.get("shape")
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    if spec is None:
        return tensor["data"]
    if datatype is not None and datatype != spec.dtype.oip_name:
        raise InvalidInput(
            f"the input {name!r} in {file} is {shortened(str(datatype))}; the model takes {spec}",
            hint=f"its datatype is {spec.dtype.oip_name}",
        )
    value = input_value(spec, tensor["data"])
    return value if shape is None else _reshaped(file, name, value, shape)


def _reshaped(file: str, name: str, value: Any, shape: Any) -> Any:
    """Return flat data, or data already nested, as lists of that shape."""
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidInput(
            f"the shape of {name!r} in {file} is not a list of sizes: {shortened(str(shape))}",
            hint='for example "shape": [2, 3]',
        )
    flat = list(_flat(value))
    if len(flat) != math.prod(shape):
        raise InvalidInput(
            f"the input {name!r} in {file} has {len(flat)} values, and its shape {shape} has "
            f"{math.prod(shape)}",
            hint="make the shape and the data agree",
        )
    if 0 in shape[:-1]:
        raise InvalidInput(
            f"the input {name!r} in {file} has no values: [] does not show all of its shape "
            f"{shape}",
            hint="give it at least one row",
        )
    return _nested(flat, shape)


def _flat(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        return [value]
    return [item for part in value for item in _flat(part)]


def _nested(flat: Sequence[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return flat[0]
    step = math.prod(shape[1:])
    return [_nested(flat[at * step : (at + 1) * step], shape[1:]) for at in range(shape[0])]


def _require_keys(file: str, what: str, data: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise UsageError for keys that would be dropped silently."""
    unknown = sorted(map(str, set(data) - known))
    if unknown:
        raise UsageError(
            f"{what} in {file} has the key '{shortened(unknown[0])}', which mlserve does not send",
            hint=f"the keys are {', '.join(sorted(known))}",
        )
