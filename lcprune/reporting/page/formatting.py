"""Numbers as the page writes them, in Python exactly as its script does in JavaScript."""

import math
from decimal import ROUND_HALF_UP, Decimal

NOT_KNOWN = "–"


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point, rounded half up as JavaScript's ``toFixed`` does.

    What is not a finite number is shown as a dash.
    """
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def percent(value: float | None) -> str:
    """Percent from percent: ``86.78 %``."""
    return f"{fixed(value, 2)} %"


def share(fraction: float | None) -> str:
    """Percent from a fraction: ``33.62 %``."""
    return percent(None if fraction is None else 100 * fraction)


def short(value: float) -> str:
    """At most four digits: ``0.8214``, ``12k``."""
    return f"{value / 1000:.4g}k" if abs(value) >= 1000 else f"{value:.4g}"
