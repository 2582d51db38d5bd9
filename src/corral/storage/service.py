"""What can be done with stored objects. The only module of this folder that other capabilities and the API import.

Owns the order of row and content: content is stored before the row says that it is there, and the row says that it is
gone before it is removed. What is between the two after a crash is nobody's, and the controller removes it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import sqlalchemy as sa

from corral.core import errors
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.storage import rows
from corral.storage.backend import Content, ObjectStore, open_store
from corral.storage.model import ObjectFilter, ObjectPage, ObjectState, ObjectWish, StoredObject
from corral.storage.tokens import Act, Tokens, load_key, load_node, load_remote_key

__all__ = [
    "Content",
    "ObjectStore",
    "Objects",
    "OpenObject",
    "Places",
    "Tokens",
    "load_key",
    "load_node",
    "load_remote_key",
    "open_store",
]

Texts = list[str]

#: Seconds for which the address of an upload holds, and a download's that names none.
UPLOAD_S: Final = 3600
DOWNLOAD_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Places:
    """Keys of one server's objects in an object store that it may share with others."""

    node: str

    def upload(self, object_id: str) -> str:
        """Where content is until its upload is completed."""
        return f"nodes/{self.node}/uploads/{object_id}"

    def content(self, object_id: str) -> str:
        """Where it is then, and where nobody can write any more."""
        return f"nodes/{self.node}/objects/{object_id}"

    @property
    def prefix(self) -> str:
        """What all of them begin with."""
        return f"nodes/{self.node}/"

    @property
    def marker(self) -> str:
        """What tells that this is the object store that the server's objects are in."""
        return f"nodes/{self.node}/marker"


@dataclass(frozen=True, slots=True)
class OpenObject:
    """An object whose content can be read, once: iterate over `content`."""

    row: StoredObject
    content: Content

    @property
    def size(self) -> int:
        """In bytes."""
        return self.content.size


class Objects:
    """See the methods. All raise errors.NotFound for what is not the account's."""

    def __init__(
        self,
        store: Store,
        contents: ObjectStore,
        places: Places,
        tokens: Tokens,
        *,
        clock: Clock,
        ids: Ids,
        limit: int,
    ) -> None:
        self._store = store
        self._contents = contents
        self._places = places
        self._tokens = tokens
        self._clock = clock
        self._ids = ids
        self.limit = limit  #: bytes of one object
        self._completing: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # -- what callers do

    async def create(
        self,
        account_id: str,
        wish: ObjectWish,
        *,
        object_id: str | None = None,
        also: Callable[[sa.Connection, StoredObject], None] | None = None,
    ) -> StoredObject:
        """Record an object that awaits its content, under an id of `new_id`. `also` is called in the transaction."""
        new_id, at_ms = object_id or self.new_id(), self._clock.now_ms()

        def insert(connection: sa.Connection) -> StoredObject:
            made = rows.insert(connection, new_id, account_id, wish, at_ms)
            if also is not None:
                also(connection, made)
            return made

        return await self._store.write(insert)

    def new_id(self) -> str:
        """An id for an object that is about to be created."""
        return self._ids.new("obj")

    async def upload_url(self, object_id: str, base: str) -> str:
        """Where the content is to be PUT: at this server, whose address is `base`, or at the object store's."""
        signed = await self._contents.sign("PUT", self._places.upload(object_id), UPLOAD_S)
        return signed or self._own_url("upload", object_id, base, UPLOAD_S)

    async def download_url(self, account_id: str, object_id: str, base: str, seconds: int) -> str:
        """Where whoever has it can GET the content for `seconds`. Raises errors.WrongState unless it is whole."""
        await self._require_whole(account_id, object_id, "download")
        signed = await self._contents.sign("GET", self._places.content(object_id), seconds)
        return signed or self._own_url("download", object_id, base, seconds)

    async def complete(self, account_id: str, object_id: str) -> StoredObject:
        """Take what was uploaded as the content, for good. Raises errors.Conflict unless it is awaited.

        Raises errors.WrongState when nothing was uploaded, errors.TooLarge when it was too much: it has failed then.
        """
        lock = self._completing.setdefault(object_id, asyncio.Lock())
        async with lock:
            found = await self.get(account_id, object_id)
            if found.state is not ObjectState.UPLOADING:
                raise errors.Conflict(f"cannot complete object {object_id}: it is {found.state.value}, not UPLOADING")
            await self._contents.move(self._places.upload(object_id), self._places.content(object_id))
            size = await self._contents.size(self._places.content(object_id))
            if size is None:
                raise errors.WrongState(f"cannot complete object {object_id}: nothing was uploaded yet")
            if size > self.limit:
                message = f"its content has {size} bytes, over {self.limit}"
                await self._move(object_id, (ObjectState.UPLOADING,), ObjectState.ERROR, message=message)
                raise errors.TooLarge(f"cannot complete object {object_id}: {message}")
            if not await self._move(object_id, (ObjectState.UPLOADING,), ObjectState.READ_ONLY, size=size):
                raise errors.Conflict(f"cannot complete object {object_id}: it was deleted meanwhile")
        return await self.get(account_id, object_id)

    async def get(self, account_id: str, object_id: str) -> StoredObject:
        """The object as it is now, deleted ones too."""
        return await self._store.read(lambda connection: rows.get(connection, account_id, object_id))

    async def list(
        self,
        account_id: str,
        which: ObjectFilter,
        *,
        limit: int = 20,
        starting_after: str | None = None,
        count: bool = True,
    ) -> ObjectPage:
        """The account's objects, newest first; deleted ones only when `which` asks for them."""
        return await self._store.read(
            lambda connection: rows.page(
                connection, account_id, which, limit=limit, starting_after=starting_after, count=count
            )
        )

    async def delete(self, account_id: str, object_id: str) -> StoredObject:
        """Nobody reads it any more; its row stays, and says so. Idempotent."""
        at_ms = self._clock.now_ms()

        def change(connection: sa.Connection) -> StoredObject:
            rows.get(connection, account_id, object_id)
            rows.move(connection, object_id, rows.SHOWN, ObjectState.DELETED, at_ms)
            return rows.get(connection, account_id, object_id)

        return await self._store.write(change)

    async def metadata_keys(self, account_id: str) -> Texts:
        """Metadata keys of the account's objects, in order."""
        return await self._store.read(lambda connection: rows.metadata_keys(connection, account_id))

    async def metadata_values(self, account_id: str, key: str) -> Texts:
        """As `metadata_keys`, the values of one key."""
        return await self._store.read(lambda connection: rows.metadata_values(connection, account_id, key))

    # -- content, for whoever has an address

    async def receive(self, object_id: str, token: str, chunks: AsyncIterator[bytes]) -> int:
        """Store content that is sent to an upload's address; a later one replaces it until `complete`.

        Returns its size. Raises errors.Forbidden for a token that does not hold, errors.TooLarge, errors.Exhausted,
        errors.Conflict when no content is awaited.
        """
        self._tokens.check("upload", object_id, token)
        await self._require_awaited(object_id)
        key = self._places.upload(object_id)
        size = await self._contents.put(key, self._within_limit(chunks))
        try:
            await self._require_awaited(object_id)
        except errors.CorralError:
            await self._contents.remove([key])  # it was deleted meanwhile, and what was its content with it
            raise
        return size

    async def sent(self, object_id: str, token: str) -> tuple[StoredObject, str]:
        """The object of a download's address, and the path of its content. Raises errors.Forbidden and WrongState."""
        self._tokens.check("download", object_id, token)
        at_ms = self._clock.now_ms()

        def find(connection: sa.Connection) -> StoredObject:
            found = rows.find(connection, object_id)
            if found is None:
                raise errors.NotFound(f"cannot download object {object_id}: there is none")
            return rows.require_whole(connection, found.account_id, object_id, at_ms, "download")

        found = await self._store.read(find)
        root = self._contents.root
        path = None if root is None else root / self._places.content(object_id)
        if path is None or not await asyncio.to_thread(path.is_file):
            await self._lost(object_id)
            raise errors.NotFound(f"cannot download object {object_id}: its content is gone")
        return found, str(path)

    # -- for the rest of the server

    def require(self, connection: sa.Connection, account_id: str, object_id: str) -> StoredObject:
        """In the caller's transaction: the account's object, if its content can be read. Raises errors.WrongState."""
        return rows.require_whole(connection, account_id, object_id, self._clock.now_ms(), "use")

    async def open(self, account_id: str, object_id: str) -> OpenObject:
        """The object with its content, to be read once. Raises errors.WrongState unless it is whole."""
        found = await self._require_whole(account_id, object_id, "read")
        content = await self._contents.read(self._places.content(object_id))
        if content is None:
            await self._lost(object_id)
            raise errors.NotFound(f"cannot read object {object_id}: its content is gone")
        return OpenObject(found, content)

    async def put_internal(self, account_id: str, wish: ObjectWish, chunks: AsyncIterator[bytes]) -> StoredObject:
        """Store a stream as an object that is whole at once. What `chunks` raises is raised, and nothing is kept."""
        found = await self.create(account_id, wish)
        awaited = (ObjectState.UPLOADING,)
        try:
            size = await self._contents.put(self._places.content(found.id), self._within_limit(chunks))
        except BaseException:
            await self._move(found.id, awaited, ObjectState.ERROR, message="its content could not be stored")
            raise
        await self._move(found.id, awaited, ObjectState.READ_ONLY, size=size)
        return await self.get(account_id, found.id)

    # -- inside

    def _own_url(self, act: Act, object_id: str, base: str, seconds: float) -> str:
        query = urlencode({"token": self._tokens.make(act, object_id, seconds)})
        return f"{base}/v1/objects/{object_id}/content?{query}"

    async def _within_limit(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.limit:
                raise errors.TooLarge(f"cannot upload object: it is over {self.limit} bytes")
            yield chunk

    async def _require_whole(self, account_id: str, object_id: str, verb: str) -> StoredObject:
        at_ms = self._clock.now_ms()
        return await self._store.read(
            lambda connection: rows.require_whole(connection, account_id, object_id, at_ms, verb)
        )

    async def _require_awaited(self, object_id: str) -> None:
        found = await self._store.read(lambda connection: rows.find(connection, object_id))
        if found is None or found.state is not ObjectState.UPLOADING:
            state = "there is none" if found is None else f"it is {found.state.value}, not UPLOADING"
            raise errors.Conflict(f"cannot upload object {object_id}: {state}")

    async def _lost(self, object_id: str) -> None:
        """Record that the content of a whole object is not there, if this is the object store that it was in."""
        if await self._contents.size(self._places.marker) is not None:
            message = "its content is not in the object store any more"
            await self._move(object_id, (ObjectState.READ_ONLY,), ObjectState.ERROR, message=message)

    async def _move(
        self,
        object_id: str,
        expected: tuple[ObjectState, ...],
        state: ObjectState,
        *,
        size: int | None = None,
        message: str = "",
    ) -> bool:
        at_ms = self._clock.now_ms()
        return await self._store.write(
            lambda connection: rows.move(connection, object_id, expected, state, at_ms, size=size, message=message)
        )
