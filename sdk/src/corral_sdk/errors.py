"""Every error that the client raises on purpose; one class per decision that the caller can take.

    CorralError
    ├── Invalid            mend the request: a field, a path, a value
    ├── WrongState         bring the object into the right state first
    ├── Unauthenticated    send a valid key
    ├── Forbidden          use a key that may do this
    ├── NotFound           there is no such object
    ├── TimedOut           ask again: what was waited for has not happened yet
    ├── Conflict           another request or object holds this
    ├── TooLarge           send less
    ├── OutOfDisk          remove files in the devbox, or give it more disk
    ├── Exhausted          free something or wait: a limit is reached
    ├── Internal           report it: the server is at fault
    ├── NotOffered         do without: this server does not offer it
    ├── Unavailable        retry later, or mend the host
    ├── Ended              the devbox or command ended before what was waited for happened
    ├── BuildFailed        mend the Dockerfile: a blueprint was not built
    ├── Unreachable        no server answered, or the connection was lost
    └── BadAnswer          what answered is not a Corral server, or one that this client does not understand

An error of the server is rebuilt from its `kind`, out of this closed list, and its message; nothing else
in an answer decides what is raised.
"""

from __future__ import annotations

from typing import ClassVar, Final


class CorralError(Exception):
    """Base of all deliberate errors. `message` is for people, `kind` for programs."""

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(CorralError):
    """The request cannot be carried out as it is written."""

    kind = "invalid"


class WrongState(CorralError):
    """The object exists, but not in a state that allows this."""

    kind = "wrong-state"


class Unauthenticated(CorralError):
    """No key, or one that is unknown, expired or revoked."""

    kind = "unauthenticated"


class Forbidden(CorralError):
    """The key is valid, but its scopes do not allow this."""

    kind = "forbidden"


class NotFound(CorralError):
    """No such object for this account."""

    kind = "not-found"


class TimedOut(CorralError):
    """What was waited for did not happen in the time given; it may still happen."""

    kind = "timed-out"


class Conflict(CorralError):
    """Another request or object stands in the way; the same request again would fail again."""

    kind = "conflict"


class TooLarge(CorralError):
    """The body, file or output is over its limit."""

    kind = "too-large"


class OutOfDisk(CorralError):
    """The devbox's disk is full."""

    kind = "out-of-disk"


class Exhausted(CorralError):
    """A limit of the host or of the account is reached."""

    kind = "exhausted"


class Internal(CorralError):
    """The server itself is at fault."""

    kind = "internal"


class NotOffered(CorralError):
    """This server does not offer what was asked for."""

    kind = "not-offered"


class Unavailable(CorralError):
    """The host cannot do this now."""

    kind = "unavailable"


class Ended(CorralError):
    """The devbox or the command ended before what was waited for happened."""

    kind = "ended"


class BuildFailed(CorralError):
    """A blueprint was not built. `blueprint_id` is where its log is."""

    kind = "build-failed"

    def __init__(self, message: str, blueprint_id: str) -> None:
        super().__init__(message)
        self.blueprint_id = blueprint_id


class Unreachable(CorralError):
    """No server answered, or the connection was lost and did not come back."""

    kind = "unreachable"


class BadAnswer(CorralError):
    """What answered is not a Corral server, or one that this client does not understand."""

    kind = "bad-answer"


#: What a server may send as `kind`. `Ended`, `BuildFailed`, `Unreachable` and `BadAnswer` are made by the client only.
BY_KIND: Final[dict[str, type[CorralError]]] = {
    cls.kind: cls
    for cls in (
        Invalid,
        WrongState,
        Unauthenticated,
        Forbidden,
        NotFound,
        TimedOut,
        Conflict,
        TooLarge,
        OutOfDisk,
        Exhausted,
        Internal,
        NotOffered,
        Unavailable,
    )
}


def from_wire(status: int, body: object) -> CorralError:
    """Rebuild the error that a server sent as the JSON `body` of an answer with this HTTP status."""
    if isinstance(body, dict):
        kind, message = body.get("kind"), body.get("message")
        if isinstance(kind, str) and isinstance(message, str) and kind in BY_KIND:
            return BY_KIND[kind](message)
        if isinstance(message, str):
            return BadAnswer(f"cannot understand error of the server: status {status}, kind {kind!r}: {message}")
    return BadAnswer(f"cannot understand answer: status {status} without an error as Corral sends it")
