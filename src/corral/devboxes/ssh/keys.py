"""Keys with which one devbox is entered: made on request, kept as public keys, gone with the devbox.

Owns the rows of `ssh_keys` and the answer to whose key a client holds. Must not keep a private key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import asyncssh
import sqlalchemy as sa

from corral.core import errors, events
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.model import Observed
from corral.devboxes.tables import DEVBOXES, SSH_KEYS

#: Keys of one devbox that are good at the same time; one more ends the oldest.
PER_DEVBOX: Final = 64

#: The kind that the dialect's clients expect, as PKCS #8.
ALGORITHM: Final = "ecdsa-sha2-nistp256"

_K = SSH_KEYS.c
_BY_KEY: Final = (
    sa.select(
        _K.id,
        _K.devbox_id,
        _K.expires_at_ms,
        DEVBOXES.c.account_id,
        DEVBOXES.c.observed,
        DEVBOXES.c.request,
    )
    .join(DEVBOXES, DEVBOXES.c.id == _K.devbox_id)
    .where(_K.public_key == sa.bindparam("public_key"))
)


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where clients of this server connect: `port` on it, with this host key. `domain` as of tunnels."""

    domain: str
    port: int
    host_key: str  #: as in a file of known hosts, without the host


@dataclass(frozen=True, slots=True)
class CreatedSshKey:
    """A key that was made now. `private_key` is PEM and known to nobody afterwards."""

    devbox_id: str
    user: str
    private_key: str = field(repr=False)
    entrance: Entrance

    @property
    def host(self) -> str:
        """The name of the devbox for clients that route by names; the key alone decides where it leads."""
        return f"{host_label(self.devbox_id)}.ssh.{self.entrance.domain}"


@dataclass(frozen=True, slots=True)
class Admission:
    """What a key opens: one devbox of one account, as its user."""

    key_id: str
    account_id: str
    devbox_id: str
    user: str
    expires_at_ms: int | None


class SshKeys:
    """All keys of this server."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, entrance: Entrance | None) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._entrance = entrance

    async def create(
        self, account_id: str, devbox_id: str, *, api_key_id: str, expires_at_ms: int | None = None
    ) -> CreatedSshKey:
        """Make a key for a running devbox, for the holder of an API key that ends at `expires_at_ms`.

        Raises errors.NotOffered when the server does not listen for SSH, errors.NotFound, errors.WrongState.
        """
        if self._entrance is None:
            raise errors.NotOffered(
                "cannot create SSH key: this server does not listen for SSH; start it with CORRAL_SSH_LISTEN"
            )
        key = asyncssh.generate_private_key(ALGORITHM)
        values = {
            "id": self._ids.new("ssh"),
            "devbox_id": devbox_id,
            "public_key": key.public_data,
            "api_key_id": api_key_id,
            "created_at_ms": self._clock.now_ms(),
            "expires_at_ms": expires_at_ms,
        }

        def insert(connection: sa.Connection) -> str:
            rows.require_running(connection, account_id, devbox_id, "create SSH key for")
            devbox = rows.get(connection, account_id, devbox_id)
            connection.execute(SSH_KEYS.insert(), values)
            newest = sa.select(_K.seq).where(_K.devbox_id == devbox_id).order_by(_K.seq.desc()).limit(PER_DEVBOX)
            connection.execute(SSH_KEYS.delete().where(_K.devbox_id == devbox_id, _K.seq.not_in(newest)))
            told = {"ssh_key_id": values["id"], "api_key_id": api_key_id}
            now = self._clock.now_ms()
            events.append(connection, at_ms=now, subject=devbox_id, kind="devbox.ssh_key_created", data=told)
            return devbox.request.user.name

        user = await self._store.write(insert)
        private = key.export_private_key("pkcs8-pem").decode()
        return CreatedSshKey(devbox_id, user, private, self._entrance)

    async def admit(self, public_key: bytes) -> Admission | None:
        """What this public key opens now; None when nothing."""

        def find(connection: sa.Connection) -> Admission | None:
            row = connection.execute(_BY_KEY, {"public_key": public_key}).mappings().first()
            if row is None or row["observed"] != Observed.RUNNING:
                return None
            if row["expires_at_ms"] is not None and row["expires_at_ms"] <= self._clock.now_ms():
                return None
            user = row["request"]["user"]["name"]
            return Admission(row["id"], row["account_id"], row["devbox_id"], user, row["expires_at_ms"])

        return await self._store.read(find)

    async def holds(self, admission: Admission) -> bool:
        """Whether the key is still there, as it is until its devbox ends."""
        query = sa.select(_K.id).where(_K.id == admission.key_id)
        return await self._store.read(lambda connection: connection.execute(query).first() is not None)


def host_label(devbox_id: str) -> str:
    """A devbox's id as a part of a host name, where case does not count and an underscore is not allowed."""
    return devbox_id.replace("_", "-").lower()
