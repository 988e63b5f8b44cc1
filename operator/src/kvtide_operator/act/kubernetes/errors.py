"""What can go wrong with the Kubernetes API.

ApiError ─┬─ NotFoundError       404: the object or its kind is not there
          ├─ ConflictError       409: somebody else changed it first, or has it already
          ├─ ForbiddenError      401, 403: no right to do so
          │   └─ QuotaError      403 by a ResourceQuota or LimitRange: the namespace is full
          ├─ InvalidError        400, 422 and others: the request itself is wrong; trying again does not help
          ├─ ThrottledError      429: later, ``retry_after_s``
          ├─ UnavailableError    5xx or no connection: the server is not well
          └─ TimedOutError       no answer in time: whether it was done is not known
NotLeaderError                   this process may not write now
"""

from collections.abc import Mapping
from typing import Any, Final

_MAX_MESSAGE_CHARS: Final = 500


class ApiError(Exception):
    """A call failed; the message says what was tried, and the server's words."""

    def __init__(self, call: str, message: str, status: int = 0) -> None:
        super().__init__(f"{call}: {message}")
        self.status = status
        self.sentence = message


class NotFoundError(ApiError):
    """There is no such object."""


class ConflictError(ApiError):
    """The object was changed meanwhile, or exists already."""


class ForbiddenError(ApiError):
    """The operator has no right to do this."""


class QuotaError(ForbiddenError):
    """The namespace's quota does not allow this size."""


class InvalidError(ApiError):
    """The server refuses what was asked, now and later."""


class ThrottledError(ApiError):
    """The server asks to come back later; ``retry_after_s`` seconds, None where it does not say."""

    def __init__(self, call: str, message: str, retry_after_s: float | None) -> None:
        super().__init__(call, message, 429)
        self.retry_after_s = retry_after_s


class UnavailableError(ApiError):
    """The server cannot be reached or is not well."""


class TimedOutError(ApiError):
    """The server did not answer in time."""


class NotLeaderError(Exception):
    """This process does not lead, or not any more; nothing was written."""


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
}


def error_of(call: str, status: int, body: Mapping[str, Any], retry_after: str | None) -> ApiError:
    """The error that an answer means; ``body`` is the server's Status object, where there is one."""
    message = str(body.get("message") or f"HTTP status {status}")[:_MAX_MESSAGE_CHARS]
    if status == 429:
        return ThrottledError(call, message, _seconds(retry_after))
    if status == 500 and message.startswith("failed to create typed patch object"):
        return InvalidError(call, message, status)  # how the server says that an apply has an unknown field
    if status >= 500:
        # 504 is the server's own time-out: what it was doing may yet happen.
        return (TimedOutError if status == 504 else UnavailableError)(call, message, status)
    if status == 403 and ("exceeded quota" in message or "usage per" in message):
        return QuotaError(call, message, status)
    return _BY_STATUS.get(status, InvalidError)(call, message, status)


def _seconds(retry_after: str | None) -> float | None:
    # Only seconds: the API server never sends the date form.
    return float(retry_after) if retry_after and retry_after.isdigit() else None
