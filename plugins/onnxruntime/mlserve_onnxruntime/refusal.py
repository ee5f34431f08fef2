"""The verdict on one image, before it is known which one of a batch it is."""

from __future__ import annotations

from mlserve.image_problems import Problem


class Refused(Exception):
    """An image that is not taken; `text` says why in the words of `mlserve.image_problems`."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(problem.text + detail)
        self.text = problem.text + detail


def require_size(width: int, height: int, max_pixels: int) -> None:
    """Raises Refused for a header without a valid size, or with too many pixels."""
    if width <= 0 or height <= 0:
        raise Refused(Problem.NO_SIZE)
    if width * height > max_pixels:
        raise Refused(Problem.TOO_LARGE, f" ({width}x{height}, at most {max_pixels} pixels)")
