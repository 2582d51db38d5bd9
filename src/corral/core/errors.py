"""Every error that Corral raises on purpose; one class per decision that the caller can take.

    CorralError
    ├── Invalid            mend the request: a field, a path, a value (400)
    ├── WrongState         bring the object into the right state first (400)
    ├── Unauthenticated    send a valid key (401)
    ├── Forbidden          use a key that may do this (403)
    ├── NotFound           there is no such object (404)
    ├── TimedOut           ask again: what was waited for has not happened yet (408)
    ├── Conflict           another request holds this; a retry of the same will not help (409)
    ├── TooLarge           send less (413)
    ├── OutOfDisk          remove files in the devbox, or give it more disk (413)
    ├── Exhausted          free something or wait: a limit of the host or account is reached (429)
    ├── Internal           report it: Corral is at fault (500)
    ├── NotOffered         do without: this server does not offer it (501)
    └── Unavailable        retry later, or mend the host: `remedy` says how (503)

Messages read `cannot <verb> <object>: <cause>`. On the wire an error is its `kind`, from this closed
list, and its message; never a class name.
"""

from __future__ import annotations

from typing import ClassVar


class CorralError(Exception):
    """Base of all deliberate errors. `message` is for people, `kind` for programs."""

    kind: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(CorralError):
    """The request cannot be carried out as it is written."""

    kind = "invalid"
    status = 400


class WrongState(CorralError):
    """The object exists, but not in a state that allows this."""

    kind = "wrong-state"
    status = 400


class Unauthenticated(CorralError):
    """No key, or one that is unknown, expired or revoked."""

    kind = "unauthenticated"
    status = 401


class Forbidden(CorralError):
    """The key is valid, but its scopes do not allow this."""

    kind = "forbidden"
    status = 403


class NotFound(CorralError):
    """No such object for this account."""

    kind = "not-found"
    status = 404


class TimedOut(CorralError):
    """What was waited for did not happen in the time given; it may still happen."""

    kind = "timed-out"
    status = 408


class Conflict(CorralError):
    """Another request or object stands in the way; the same request again would fail again."""

    kind = "conflict"
    status = 409


class TooLarge(CorralError):
    """The body, file or output is over its limit."""

    kind = "too-large"
    status = 413


class OutOfDisk(CorralError):
    """The devbox's disk is full."""

    kind = "out-of-disk"
    status = 413


class Exhausted(CorralError):
    """A limit of the host or of the account is reached."""

    kind = "exhausted"
    status = 429


class Internal(CorralError):
    """Corral itself is at fault."""

    kind = "internal"
    status = 500


class NotOffered(CorralError):
    """This server does not offer what was asked for."""

    kind = "not-offered"
    status = 501


class Unavailable(CorralError):
    """The host cannot do this now; `remedy` says what a person can do about it."""

    kind = "unavailable"
    status = 503

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.remedy = remedy
