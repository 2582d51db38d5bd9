"""Keys: the first one, further ones, and what happens to wrong ones."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from corral.core import errors, events
from corral.core.clock import ManualClock
from corral.core.ids import Ids
from corral.core.settings import Durability
from corral.core.store import engine as engines
from corral.core.store import migrate
from corral.core.store.store import Store
from corral.identity.model import Caller, Need, Resource, Scope
from corral.identity.service import CACHE_S, Identity
from corral.identity.tables import API_KEYS


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    engine = engines.open_sqlite(tmp_path / "corral.db", Durability.CRASH)
    migrate.upgrade(engine)
    one = Store(engine, events.Feed())
    yield one
    await one.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def identity(store: Store, clock: ManualClock) -> Identity:
    return Identity(store, clock, Ids(clock))


async def test_the_first_key_is_made_once_and_its_file_is_private(identity: Identity, tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    key = await identity.ensure_first_key(path)
    assert key is not None
    assert path.read_text() == key + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    caller = await identity.authenticate(f"Bearer {key}")
    assert (await identity.account(caller.account_id)).name == "default"
    assert await identity.ensure_first_key(path) is None
    assert path.read_text() == key + "\n"


async def test_a_start_that_was_cut_off_after_the_file_goes_on_with_it(identity: Identity, tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.write_text("ak_" + "x" * 43 + "\n")
    assert await identity.ensure_first_key(path) is None
    caller = await identity.authenticate("Bearer ak_" + "x" * 43)
    assert caller.scopes is None


async def test_a_key_file_that_holds_no_key_is_told_with_the_remedy(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("")
    with pytest.raises(errors.Unavailable, match="does not hold an API key; remove that file"):
        await identity.ensure_first_key(tmp_path / "api-key")


async def test_a_key_file_that_cannot_be_written_is_told_with_the_remedy(identity: Identity, tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="No such file or directory; let it write its data folder"):
        await identity.ensure_first_key(tmp_path / "missing" / "api-key")


async def test_a_given_key_is_valid_beside_those_that_are_there_and_writes_no_file(
    identity: Identity, tmp_path: Path
) -> None:
    made = await identity.ensure_first_key(tmp_path / "api-key")
    given = "ak_given-by-the-operator"
    for _ in range(2):
        assert await identity.ensure_first_key(tmp_path / "other", given) is None
    assert not (tmp_path / "other").exists()
    accounts = {(await identity.authenticate(f"Bearer {key}")).account_id for key in (made, given)}
    assert len(accounts) == 1


@pytest.mark.parametrize("given", ["", "short", "with space in the middle of it", "x" * 513, "é" * 20])
async def test_a_given_key_that_no_header_could_carry_is_refused(
    identity: Identity, tmp_path: Path, given: str
) -> None:
    with pytest.raises(errors.Invalid, match="cannot use CORRAL_API_KEY"):
        await identity.ensure_first_key(tmp_path / "api-key", given)


async def test_only_a_digest_of_a_key_is_stored(identity: Identity, store: Store, tmp_path: Path) -> None:
    key = await identity.ensure_first_key(tmp_path / "api-key")
    assert key is not None
    rows = await store.read(lambda connection: connection.execute(sa.select(API_KEYS)).all())
    assert key not in repr(rows)
    assert hashlib.sha256(key.encode()).digest() in rows[0]
    for file in tmp_path.glob("corral.db*"):
        assert key.encode() not in file.read_bytes()


async def test_a_key_ends_at_its_time(identity: Identity, clock: ManualClock, tmp_path: Path) -> None:
    await identity.ensure_first_key(tmp_path / "api-key", "ak_" + "k" * 20)
    account_id = (await identity.authenticate("Bearer ak_" + "k" * 20)).account_id
    made = await identity.create_key(Caller(account_id, "key"), name="short", expires_at_ms=clock.now_ms() + 5000)
    assert (await identity.authenticate(f"Bearer {made.secret}")).key_id == made.id
    await clock.advance(6)
    with pytest.raises(errors.Unauthenticated, match="has expired"):
        await identity.authenticate(f"Bearer {made.secret}")
    with pytest.raises(errors.Invalid, match="is in the past"):
        await identity.create_key(Caller(account_id, "key"), expires_at_ms=clock.now_ms())


async def test_a_key_that_was_revoked_elsewhere_ends_within_the_cache_time(
    identity: Identity, store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    key = await identity.ensure_first_key(tmp_path / "api-key")
    await identity.authenticate(f"Bearer {key}")
    await store.write(lambda connection: connection.execute(API_KEYS.update().values(revoked_at_ms=1)))
    await clock.advance(CACHE_S + 1)
    with pytest.raises(errors.Unauthenticated, match="unknown or was revoked"):
        await identity.authenticate(f"Bearer {key}")


def test_each_scope_holds_the_ones_below_it_and_nothing_else() -> None:
    caller = Caller("acc", "key", {Resource.DEVBOXES: Scope.READ})
    assert caller.may(Need(Resource.DEVBOXES, Scope.READ))
    assert not caller.may(Need(Resource.DEVBOXES, Scope.WRITE))
    assert not caller.may(Need(Resource.ACCOUNT, Scope.READ))
    assert caller.may(Need(None))
    full = Caller("acc", "key")
    assert all(full.may(Need(resource, Scope.ADMIN)) for resource in Resource)
