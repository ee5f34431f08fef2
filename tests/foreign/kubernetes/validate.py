"""Validates objects strictly: `validate.py VERSION < objects.json`; prints faults by kind."""

from __future__ import annotations

import json
import sys

import kubernetes_validate


def faults(version: str, objects: list[dict[str, object]]) -> dict[str, str]:
    """Return what is wrong with which object; strictly, so that unknown fields are wrong, too."""
    found = {}
    for each in objects:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the object is not valid
            found[str(each.get("kind"))] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    json.dump(faults(sys.argv[1], json.load(sys.stdin)), sys.stdout)
