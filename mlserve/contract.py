"""The input and output contract of a model, and how each part is known: given, found or assumed.

`mlserve.measure` inspects the model, and what the user says takes precedence. If neither settles a
part, the export stops with the error that the inspection prepared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mlserve.errors import ExportError, UsageError
from mlserve.pipeline import Activation
from mlserve.sources import Fact, Facts, How, ModelRequest

Scale = tuple[float, float]
"""The values that pixel 0 and pixel 255 map to."""

UNIT: Scale = (0.0, 1.0)
RAW: Scale = (0.0, 255.0)
SYMMETRIC: Scale = (-1.0, 1.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evidence(Generic[T]):
    """A value, how it is known unless the user overrides it, and why."""

    value: T
    why: str
    how: How = How.FOUND


@dataclass(frozen=True, slots=True)
class Contract:
    """How pixels become the model's input and its output becomes scores, with the facts."""

    units: int
    activation: Activation
    scale: Scale
    facts: Facts = field(default_factory=dict)


def settle(
    request: ModelRequest,
    units: int,
    activation: Evidence[Activation] | ExportError,
    scale: Evidence[Scale] | ExportError,
) -> Contract:
    """Return the contract of a model with `units` outputs: the user's values, else those found.

    A finding that is an error is raised unless the user gave the value.
    """
    given = None if request.activation is None else given_activation(request.activation, units)
    turned, turned_fact = _settled(given, activation)
    if isinstance(activation, Evidence) and turned is not activation.value:
        warning = (
            f"{activation.why}, so that --activation {word_for(activation.value)} was expected"
        )
        turned_fact = Fact(turned_fact.how, turned_fact.why, warning)
    wanted, scale_fact = _settled(_given_scale(request), scale)
    if scale_fact.how is How.GIVEN:
        scale_fact = _fact_of_given(request, wanted, scale)
    return Contract(units, turned, wanted, {"scale": scale_fact, "activation": turned_fact})


def _settled(given: T | None, found: Evidence[T] | ExportError) -> tuple[T, Fact]:
    if given is not None:
        return given, Fact(How.GIVEN)
    if isinstance(found, ExportError):
        raise found
    return found.value, Fact(found.how, found.why)


def given_activation(word: str, units: int) -> Activation:
    """Return the activation that `--activation WORD` means for that many output units.

    `softmax` and `sigmoid` are applied to logits, `none` leaves scores as they are. Raises
    UsageError for a word that does not fit the number of outputs.
    """
    several = {"softmax": Activation.SOFTMAX, "none": Activation.IDENTITY}
    single = {"sigmoid": Activation.SIGMOID, "none": Activation.COMPLEMENT}
    choices = single if units == 1 else several
    if word in choices:
        return choices[word]
    outputs = "one output" if units == 1 else f"{units} outputs"
    raise UsageError(
        f"--activation {word} does not fit a model with {outputs}",
        hint=f"give --activation {' or '.join(choices)}",
    )


def word_for(activation: Activation) -> str:
    """Return the value of `--activation` for this activation."""
    is_score = activation in (Activation.IDENTITY, Activation.COMPLEMENT)
    return "none" if is_score else activation.value


def scale_text(scale: Scale) -> str:
    """Format a scale as `--scale` takes it: `-1..1`."""
    return f"{scale[0]:.4g}..{scale[1]:.4g}"


def _given_scale(request: ModelRequest) -> Scale | None:
    """Return the scale that the user gave; --mean and --std are those of pixels in 0..1."""
    return UNIT if request.scale is None and request.pixels.normalizes else request.scale


def _fact_of_given(
    request: ModelRequest, scale: Scale, found: Evidence[Scale] | ExportError
) -> Fact:
    pixels = request.pixels
    said = pixels.origins.get("scale") or pixels.notes.get("scale", "")
    if not pixels.normalizes:
        return Fact(How.GIVEN, said, _scale_warning(scale, found))
    why = said if request.scale else "mean and std are of pixels in 0..1"
    return Fact(How.GIVEN, why, _twice_warning(found) or _range_warning(request, scale))


def _twice_warning(found: Evidence[Scale] | ExportError) -> str:
    if not isinstance(found, Evidence) or found.how is not How.FOUND:
        return ""
    return (
        f"--mean and --std change the pixels, but the model takes {scale_text(found.value)} as "
        f"they are: {found.why}. If that is its own normalisation, pixels are normalised twice: "
        "leave --mean and --std out"
    )


def _range_warning(request: ModelRequest, scale: Scale) -> str:
    """Return a warning if the mean and deviation are of pixels in another range than the scale."""
    mean, std = request.pixels.mean or (0.0,), request.pixels.std or (1.0,)
    outside = [value for value in mean if not min(scale) <= value <= max(scale)]
    if outside:
        return (
            f"--mean {outside[0]:g} is not between the values of pixels, {scale_text(scale)}: a "
            "mean of pixels in 0..255 goes with --scale 0..255"
        )
    largest = max(abs(pixel - value) for pixel in scale for value in mean) / min(std)
    if largest <= _LARGEST_USUAL:
        return ""
    return (
        f"pixels become as large as {largest:.4g}: --mean and --std of pixels in 0..1 go with "
        "--scale 0..1"
    )


_LARGEST_USUAL = 300.0
"""Networks take numbers of about -3..3, or up to 255 if they are trained on plain pixels."""


def _scale_warning(given: Scale, found: Evidence[Scale] | ExportError) -> str:
    if given[0] > given[1]:
        return (
            f"--scale {scale_text(given)} turns light pixels dark; "
            f"the usual way round is {scale_text((given[1], given[0]))}"
        )
    if isinstance(found, Evidence) and found.how is How.FOUND and found.value != given:
        return (
            f"--scale {scale_text(given)} was given, but the model takes "
            f"{scale_text(found.value)}: {found.why}"
        )
    return ""
