"""What the parts of a benchmark have in common."""

from typing import Any

Row = dict[str, Any]
"""A line of a result: plain numbers and names, as JSON has them."""
