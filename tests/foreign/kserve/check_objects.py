"""Checks objects against the models of KServe's package: `check_objects.py < objects.json`.

Prints the paths of fields that they do not know, and of required ones that are absent.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kserve
from kubernetes import client

KINDS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}


def faults(kind: str, value: Any, path: str) -> Iterator[str]:
    """Yield what is wrong with a value that is to be of that type, as the models name types."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        for index, item in enumerate(value):
            yield from faults(match[1], item, f"{path}[{index}]")
    elif match := re.fullmatch(r"dict\(([^,]*), (.*)\)", kind):
        for key, item in value.items():
            yield from faults(match[2], item, f"{path}.{key}")
    elif (model := getattr(kserve, kind, None) or getattr(client, kind, None)) is not None:
        yield from _model_faults(model, value, path)
    elif kind in _PLAIN and not isinstance(value, _PLAIN[kind]):
        yield f"{path} is no {kind}"


_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def _model_faults(model: Any, value: Any, path: str) -> Iterator[str]:
    if not hasattr(model, "attribute_map"):
        return
    names = {key: name for name, key in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            yield f"{path}.{key} is not known"
        else:
            yield from faults(model.openapi_types[names[key]], item, f"{path}.{key}")


if __name__ == "__main__":
    objects = json.load(sys.stdin)
    found = [f for each in objects for f in faults(KINDS[each["kind"]], each, each["kind"])]
    json.dump(found, sys.stdout)
