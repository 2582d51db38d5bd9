"""Which failure of the contract a refusal of the host is."""

from __future__ import annotations

import errno
from typing import Final

from corral.runtime.contract import BoxExists, HostExhausted, HostUnfit

#: The host has no more of something.
EXHAUSTED: Final = frozenset(
    {errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EDQUOT, errno.EUSERS}
)


def ended_at_once(box_id: str) -> HostUnfit:
    """The failure that a guest which does not run is."""
    message = f"cannot create box {box_id}: its guest ended at once"
    return HostUnfit(message, remedy="run the guest binary by hand: it must be static and executable")


def exists(box_id: str) -> BoxExists:
    """The failure that an id which is taken is."""
    return BoxExists(f"cannot create box {box_id}: there is one already")


def refused(what: str, code: int, cause: str) -> HostExhausted | HostUnfit:
    """The failure that a refusal of the host is."""
    if code in EXHAUSTED or any(
        text in cause for text in ("Cannot allocate memory", "No space left", "Too many open")
    ):
        return HostExhausted(f"cannot {what}: {cause}")
    return HostUnfit(f"cannot {what}: {cause}", remedy="run corral doctor")
