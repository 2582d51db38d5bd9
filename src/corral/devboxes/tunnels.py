"""PTY tunnels: short-lived rights to the sessions of one devbox, addressed by host name.

Owns the grants, in memory and bounded: after a restart of the server clients ask for new ones. Of a token only the
digest is kept. Must not know what is done with a right.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from corral.core import errors
from corral.core.clock import Clock
from corral.core.ids import Ids

#: The dialect's port of terminals, in the host name `13-<key>.tunnel.<domain>`.
PORT: Final = 13

#: Seconds for which a token lets in. A terminal that is open at its end stays open.
LIFETIME_S: Final = 3600.0

#: Tokens of one devbox that are good at the same time; one more ends the oldest.
PER_DEVBOX: Final = 16

#: Tokens of all devboxes. More are refused until the oldest expire.
AT_ONCE: Final = 65_536

_LONGEST_HOST: Final = 255


@dataclass(frozen=True, slots=True)
class CreatedTunnel:
    """A new tunnel, with its token, which is told once."""

    key: str
    token: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token gives: the sessions of one devbox of one account."""

    account_id: str
    devbox_id: str
    digest: bytes
    expires_s: float


class PtyTunnels:
    """All grants of this server. `domain` is what follows `.tunnel.` in their host names."""

    def __init__(self, clock: Clock, ids: Ids, *, domain: str) -> None:
        self._clock = clock
        self._ids = ids
        self._grants: dict[str, Grant] = {}  # by key, the oldest first
        self._of_devbox: dict[str, list[str]] = {}
        self._host = re.compile(
            rf"([0-9]{{1,5}})-([0-9a-z]{{1,59}})\.tunnel\.{re.escape(domain.lower())}(?::[0-9]{{1,5}})?"
        )
        self._suffix = f".tunnel.{domain.lower()}"

    def create(self, account_id: str, devbox_id: str) -> CreatedTunnel:
        """Grant the devbox's sessions. The caller has checked whose devbox it is. Raises errors.Exhausted."""
        self._expire()
        if len(self._grants) >= AT_ONCE:
            raise errors.Exhausted(f"cannot create PTY tunnel: {AT_ONCE} are open; the oldest ends within the hour")
        mine = self._of_devbox.setdefault(devbox_id, [])
        if len(mine) >= PER_DEVBOX:
            self._drop(mine[0])
        created = CreatedTunnel(self._ids.label(), self._ids.secret("pty"))
        expires_s = self._clock.monotonic() + LIFETIME_S
        self._grants[created.key] = Grant(account_id, devbox_id, _digest(created.token), expires_s)
        self._of_devbox.setdefault(devbox_id, []).append(created.key)
        return created

    def key_in(self, host: str | None) -> str | None:
        """The key in a request's Host; None when it is no host of a tunnel.

        Raises errors.NotFound for a host under `.tunnel.` that can be no PTY tunnel.
        """
        if host is None:
            return None
        name = host[: _LONGEST_HOST + 1].lower()
        match = self._host.fullmatch(name)
        if match is not None and int(match[1]) == PORT:
            return match[2]
        if match is not None or name.partition(":")[0].rstrip(".").endswith(self._suffix):
            raise errors.NotFound(f"cannot find tunnel {name[:100]!r}: PTY tunnels are {PORT}-KEY{self._suffix}")
        return None

    def admit(self, key: str, token: str | None) -> Grant:
        """The grant of this key. Raises errors.Unauthenticated; it does not tell a wrong key from a wrong token."""
        self._expire()
        grant = self._grants.get(key)
        digest = _digest(token or "")
        expected = grant.digest if grant is not None else bytes(len(digest))
        if not hmac.compare_digest(digest, expected) or grant is None:
            raise errors.Unauthenticated(
                "cannot open PTY tunnel: the token is missing, expired or not this tunnel's; "
                "send `X-Runloop-Tunnel-Authorization: Bearer <auth_token>`"
            )
        return grant

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._grants and (oldest := next(iter(self._grants))):
            if self._grants[oldest].expires_s > now:
                return
            self._drop(oldest)

    def _drop(self, key: str) -> None:
        devbox_id = self._grants.pop(key).devbox_id
        left = self._of_devbox[devbox_id]
        left.remove(key)
        if not left:
            del self._of_devbox[devbox_id]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
