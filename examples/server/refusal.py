"""What the service answers instead of a classification."""

from collections.abc import Mapping

REASONS = ("bad_form", "bad_image", "bad_threshold", "busy", "disconnected", "slow", "too_large", "wrong_type")
"""Every reason there is, so that the metrics have a known set of labels."""


class RefusalError(Exception):
    """A request that is not served.

    Args:
        status: Of HTTP.
        reason: One of `REASONS`, for the metrics.
        message: For the client; says nothing about this machine.
        headers: Of the answer.
    """

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = dict(headers or {})
