"""The error tree. One class, one HTTP status, one code; retryable or not; always with a way out.

A program that fails its tests is not an error: it is a Verdict (HTTP 200). An error here means
"no answer", and a trainer must never turn one into a reward.

    RoomError
    ├── RequestRefused           the caller's fault; repeating it cannot help
    │   ├── InvalidRequest       422  a field is missing, unknown or out of bounds
    │   ├── Unauthorized         401  the bearer token is missing or wrong
    │   ├── NotFound             404  no such route or resource
    │   ├── TooLarge             413  the body or a batch is over its limit
    │   └── Unsupported          501  this engine or jail cannot do that
    └── NoAnswer                 the room's fault, or nobody's; repeating it can help
        ├── Overloaded           429  the queue is full; retry after `retry_after_s`
        ├── Unavailable          503  not ready, draining, or not reachable at all
        ├── DeadlineExceeded     504  the answer did not come in time
        └── Broken               500  a bug or a failed dependency inside the room
"""

from __future__ import annotations

from typing import ClassVar


class RoomError(Exception):
    """What every room raises at its boundary.

    detail         what happened, with the offending value
    hint           the way out, as an instruction
    field          the request field or setting it is about, as a dotted path
    retry_after_s  seconds a caller should wait before it repeats the request
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "room-error"
    title: ClassVar[str] = "The room failed"
    retryable: ClassVar[bool] = False

    def __init__(
        self, detail: str, *, hint: str = "", field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail if not hint else f"{detail}; {hint}")
        self.detail, self.hint, self.field, self.retry_after_s = detail, hint, field, retry_after_s


class RequestRefused(RoomError):
    status, code, title = 400, "request-refused", "The request was refused"


class InvalidRequest(RequestRefused):
    status, code, title = 422, "invalid-request", "A field is missing, unknown or out of bounds"


class Unauthorized(RequestRefused):
    status, code, title = 401, "unauthorized", "The bearer token is missing or wrong"


class NotFound(RequestRefused):
    status, code, title = 404, "not-found", "No such route or resource"


class TooLarge(RequestRefused):
    status, code, title = 413, "too-large", "The request is over its limit"


class Unsupported(RequestRefused):
    status, code, title = 501, "unsupported", "This room cannot do that"


class NoAnswer(RoomError):
    status, code, title, retryable = 503, "no-answer", "There is no answer", True


class Overloaded(NoAnswer):
    status, code, title = 429, "overloaded", "The queue is full"


class Unavailable(NoAnswer):
    status, code, title = 503, "unavailable", "The room is not ready or not reachable"


class DeadlineExceeded(NoAnswer):
    status, code, title = 504, "deadline-exceeded", "The answer did not come in time"


class Broken(NoAnswer):
    status, code, title = 500, "broken", "The room failed"


_LEAVES: tuple[type[RoomError], ...] = (
    InvalidRequest, Unauthorized, NotFound, TooLarge, Unsupported,
    Overloaded, Unavailable, DeadlineExceeded, Broken,
)  # fmt: skip


def class_for(status: int, code: str = "") -> type[RoomError]:
    """Return the error class for a reply: by its code, else by its status, else by its hundred.

    status   HTTP status, 400..599
    code     the `code` member of a problem+json body; may be empty or unknown
    returns  a leaf of the tree, or RequestRefused / Broken for a status the tree does not name
    """
    for leaf in _LEAVES:
        if leaf.code == code:
            return leaf
    for leaf in _LEAVES:
        if leaf.status == status:
            return leaf
    if status in (502, 503):
        return Unavailable
    return RequestRefused if 400 <= status < 500 else Broken
