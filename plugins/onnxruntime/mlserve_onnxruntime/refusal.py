"""The verdict on one image, before it is known which one of a batch it is."""

from __future__ import annotations

from mlserve.images import ImageCost, ImageLimits, Problem


class Refused(Exception):
    """An image that is not taken; `text` says why in the words of `mlserve.images`."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(problem.text + detail)
        self.text = problem.text + detail


def require_within(cost: ImageCost, limits: ImageLimits) -> None:
    """Raises Refused for a header without a valid size, and for an image over one of the limits."""
    if cost.width <= 0 or cost.height <= 0:
        raise Refused(Problem.NO_SIZE)
    excess = cost.excess(limits)
    if excess is not None:
        raise Refused(excess.problem, excess.detail)
