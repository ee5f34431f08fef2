"""What every source of preprocessing is read to, and the checks that the readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import ExportError
from mlserve.images import RGB
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import LEAST_DIVISOR, MOST_SIDE, Interpolation, is_number

UNIT = (0.0, 1.0)
RAW = (0.0, 255.0)
BY_HAND = "give --resize, --crop, --interpolation, --mean and --std yourself if mlserve can do it"
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """How training prepared its images.

    `name` is its origin as messages show it. `pixels` has a value for every step. `scale` holds the
    values that pixel 0 and pixel 255 become before mean and std. `labels` are those that the source
    knows, and `labels_name` is where they stand.
    """

    name: str
    pixels: PixelOptions
    scale: tuple[float, float]
    labels: tuple[str, ...] | None = None
    labels_name: str = ""


class Reader:
    """Typed access to the data of one source. Every method raises ExportError, naming the key."""

    def __init__(self, name: str, data: Mapping[str, Any]) -> None:
        self.name = name
        self.data = data

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def flag(self, key: str) -> bool:
        """Return a boolean; False if there is none."""
        value = self.data.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.refused(key, "not true or false")

    def number(self, key: str) -> float:
        """Return a finite number."""
        value: Any = self.data.get(key)
        if not is_number(value):
            raise self.refused(key, "not a number")
        return float(value)

    def fraction(self, key: str) -> float:
        """Return a number above 0 and at most 1."""
        value = self.number(key)
        if not 0 < value <= 1:
            raise self.refused(key, "not above 0 and at most 1")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return one finite number, or one for each channel."""
        value = self.data.get(key)
        values: Any = [value] if is_number(value) else value
        is_list = isinstance(values, list | tuple) and len(values) in (1, RGB)
        if not is_list or not all(map(is_number, values)):
            raise self.refused(key, f"not a number, or {RGB} of them")
        return tuple(map(float, values))

    def deviations(self, key: str) -> tuple[float, ...]:
        """Return the same, all above 0, and not 0 as a float32 either."""
        values = self.numbers(key)
        if min(values) < LEAST_DIVISOR:
            raise self.refused(key, "not above 0")
        return values

    def side(self, key: str, value: Any) -> int:
        """Return that value of the key as a number of pixels."""
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not 1 <= value <= MOST_SIDE:
            raise self.refused(key, "not a size in pixels")
        return int(value)

    def interpolation(self, key: str, names: Mapping[Any, str]) -> Interpolation:
        """Return the interpolation; `names` maps the source's words to lower-case ones."""
        value = self.data.get(key)
        known = names.get(value) if isinstance(value, str | int) else None
        if known not in tuple(Interpolation):
            what = f"{known}, which mlserve does not have" if known else "not a known interpolation"
            raise self.refused(
                key, what, f"mlserve has {', '.join(Interpolation)}: --interpolation"
            )
        return Interpolation(known)

    def refused(self, key: str, why: str, hint: str = BY_HAND) -> ExportError:
        """Return the error for the value of that key."""
        shown = f"{self.data.get(key)!r:.{_SHOWN}}"
        return ExportError(f"{key} in {self.name} is {shown}: {why}", hint=hint)


def with_origin(pixels: PixelOptions, name: str) -> dict[str, str]:
    """Return the origins of what those options say: all from `name`."""
    return dict.fromkeys((*pixels.given, "scale"), name)


def require_known(name: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ExportError for keys that may change pixels and that no rule covers.

    A `do_...` that is false, and any key that is null, does nothing.
    """
    strange = [
        key
        for key, value in data.items()
        if key not in known and value is not None and not (key.startswith("do_") and value is False)
    ]
    if strange:
        shown = ", ".join(f"{key} = {data[key]!r:.{_SHOWN}}" for key in sorted(strange)[:3])
        raise ExportError(
            f"{name} has {shown}, and mlserve does not know what that does to pixels",
            hint=f"remove it from the file if it does nothing; {BY_HAND}",
        )
