"""Accounts and API keys: who a request comes from.

Owns the check of a bearer key, the making of keys and the first one. A key is 256 random bits, so that one SHA-256
without salt is as good as any slower digest, and costs a microsecond a request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa

from corral.core import errors
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.identity import keyfile
from corral.identity.model import Account, Caller, CreatedKey, Need, Resource, Scope
from corral.identity.tables import ACCOUNTS, API_KEYS

T = TypeVar("T")

#: Seconds for which a key that was found valid is not looked up again: how long a revocation by another process takes.
CACHE_S: Final = 10.0

#: Keys in the cache; more than this many in use are looked up now and then.
CACHE_SIZE: Final = 4096

KEY_PREFIX: Final = "ak"
RESTRICTED_PREFIX: Final = "rk"
MAX_NAME: Final = 256


class Transactions(Protocol):
    """The part of the store that is used here."""

    async def write(self, work: Callable[[sa.Connection], T]) -> T: ...

    async def read(self, work: Callable[[sa.Connection], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    expires_at_ms: int | None
    checked_s: float


class Identity:
    """All that can be done with accounts and keys. One event loop."""

    def __init__(self, store: Transactions, clock: Clock, ids: Ids) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._known: dict[bytes, _Known] = {}

    async def authenticate(self, header: str | None) -> Caller:
        """Whose key is in this `Authorization` header. Raises errors.Unauthenticated, saying what is wrong with it."""
        scheme, _, key = (header or "").partition(" ")
        key = key.strip()
        if not header:
            raise errors.Unauthenticated("cannot authenticate: there is no Authorization header; send `Bearer <key>`")
        if scheme.lower() != "bearer" or not key:
            raise errors.Unauthenticated("cannot authenticate: the Authorization header is not `Bearer <key>`")
        digest = _digest(key)
        known = self._known.get(digest)
        if known is None or self._clock.monotonic() - known.checked_s > CACHE_S:
            known = await self._look_up(digest)
        if known.expires_at_ms is not None and known.expires_at_ms <= self._clock.now_ms():
            raise errors.Unauthenticated("cannot authenticate: this key has expired")
        return known.caller

    async def account(self, account_id: str) -> Account:
        """The account. Raises errors.NotFound."""
        query = sa.select(ACCOUNTS).where(ACCOUNTS.c.id == account_id)
        row = await self._store.read(lambda connection: connection.execute(query).mappings().one_or_none())
        if row is None:
            raise errors.NotFound(f"cannot show account {account_id}: there is none")
        return Account(**row)

    async def create_key(
        self,
        caller: Caller,
        *,
        name: str = "",
        expires_at_ms: int | None = None,
        scopes: Mapping[Resource, Scope] | None = None,
    ) -> CreatedKey:
        """Make a key for the caller's account, with the caller's rights or, of them, `scopes`; it ends no later.

        Raises errors.Invalid when it would be expired already, errors.Forbidden when the caller's key has less.
        """
        if expires_at_ms is not None and expires_at_ms <= self._clock.now_ms():
            raise errors.Invalid("cannot create API key: expires_at_ms: is in the past")
        if caller.expires_at_ms is not None:
            expires_at_ms = min(expires_at_ms or caller.expires_at_ms, caller.expires_at_ms)
        for resource, scope in (scopes or {}).items():
            if not caller.may(Need(resource, scope)):
                right = f"{scope.name.lower()} {resource.value}"
                raise errors.Forbidden(f"cannot create API key: this key has no right to {right} that it could give")
        given = caller.scopes if scopes is None else scopes
        prefix = KEY_PREFIX if given is None else RESTRICTED_PREFIX
        created = CreatedKey(self._ids.new("key"), name, self._ids.secret(prefix), expires_at_ms, given)
        values = self._row(created.id, caller.account_id, name, created.secret, expires_at_ms, given)
        await self._store.write(lambda connection: connection.execute(API_KEYS.insert(), values))
        return created

    async def ensure_first_key(self, path: Path, given: str | None = None) -> str | None:
        """See to it that there is an account with a key; return the key when it was made now, to be shown once.

        `given` (CORRAL_API_KEY) is made valid if it is not yet; no file is written then. Otherwise, when there is
        no key at all, one is made and written to `path` with mode 0600, the file first: a file that is there
        already, from a start that was cut off between the two, is used as it is.
        Raises errors.Unavailable when the file cannot be written, errors.Invalid when `given` is not usable as a key.
        """
        if given is not None:
            keyfile.check(given)
            await self._store.write(lambda connection: self._add_first(connection, given, "CORRAL_API_KEY"))
            return None
        if await self._store.read(_has_keys):
            return None
        key, made = keyfile.read_or_write(path, lambda: self._ids.secret(KEY_PREFIX))
        await self._store.write(lambda connection: self._add_first(connection, key, "first key"))
        return key if made else None

    # -- inside

    async def _look_up(self, digest: bytes) -> _Known:
        query = sa.select(API_KEYS).where(API_KEYS.c.digest == digest, API_KEYS.c.revoked_at_ms.is_(None))
        row = await self._store.read(lambda connection: connection.execute(query).mappings().one_or_none())
        if row is None:
            self._known.pop(digest, None)
            raise errors.Unauthenticated("cannot authenticate: this key is unknown or was revoked")
        caller = Caller(row["account_id"], row["id"], _scopes(row["scopes"]), row["expires_at_ms"])
        known = _Known(caller, row["expires_at_ms"], self._clock.monotonic())
        if len(self._known) >= CACHE_SIZE:
            self._known.pop(next(iter(self._known)))
        self._known[digest] = known
        return known

    def _row(
        self,
        key_id: str,
        account_id: str,
        name: str,
        key: str,
        expires_at_ms: int | None,
        scopes: Mapping[Resource, Scope] | None = None,
    ) -> dict[str, Any]:
        return {
            "id": key_id,
            "account_id": account_id,
            "name": name,
            "digest": _digest(key),
            "scopes": None if scopes is None else {name.value: scope.name.lower() for name, scope in scopes.items()},
            "created_at_ms": self._clock.now_ms(),
            "expires_at_ms": expires_at_ms,
            "revoked_at_ms": None,
        }

    def _add_first(self, connection: sa.Connection, key: str, name: str) -> None:
        """Add the account if there is none, and the key if it is not there."""
        if connection.execute(sa.select(API_KEYS.c.id).where(API_KEYS.c.digest == _digest(key))).first():
            return
        account_id = connection.execute(sa.select(ACCOUNTS.c.id).order_by(ACCOUNTS.c.created_at_ms).limit(1)).scalar()
        if account_id is None:
            account_id = self._ids.new("acc")
            values = {"id": account_id, "name": "default", "created_at_ms": self._clock.now_ms()}
            connection.execute(ACCOUNTS.insert(), values)
        connection.execute(API_KEYS.insert(), self._row(self._ids.new("key"), account_id, name, key, None))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _has_keys(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(API_KEYS.c.id).limit(1)).first() is not None


def _scopes(stored: dict[str, str] | None) -> dict[Resource, Scope] | None:
    if stored is None:
        return None
    return {Resource(resource): Scope[scope.upper()] for resource, scope in stored.items()}
