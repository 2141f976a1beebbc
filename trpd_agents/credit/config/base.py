"""What all the words of a method share: range checks, and a `kind` that names the class in a written configuration."""

from __future__ import annotations

import math


def check_number(
    name: str, value: float, low: float, high: float = math.inf, *, above_low: bool = False, inf: bool = False
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (low < value if above_low else low <= value) and value <= high and (inf or math.isfinite(value)):
        return
    bound = f"a number {'>' if above_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
    raise ValueError(f"{name}: found {value!r}, wanted {bound}{' (inf allowed)' if inf else ''}")


def check_count(name: str, value: int, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: found {value!r}, wanted a whole number >= {low}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: found {value!r}, wanted one of {', '.join(allowed)}")


class Choice:
    """One of several kinds of one part. `kind` cannot name another class than its own."""

    __pydantic_config__ = {"extra": "forbid"}
    kind: str

    def __post_init__(self) -> None:
        check_choice(f"{type(self).__name__}.kind", self.kind, (type(self).kind,))
