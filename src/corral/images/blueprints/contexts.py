"""Stored objects as the contexts of builds. Must not look into them: what builds from them does, in its own box."""

from __future__ import annotations

import hashlib

from corral.core import errors
from corral.images.builds.model import BuildContext
from corral.storage.model import ObjectState
from corral.storage.service import Objects


class ObjectContexts:
    """See `service.Contexts`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def is_whole(self, account_id: str, object_id: str) -> bool:
        """Whether it can be read; false while it is being uploaded."""
        found = await self._objects.get(account_id, object_id)
        if found.state in {ObjectState.UPLOADING, ObjectState.READ_ONLY}:
            return found.state is ObjectState.READ_ONLY
        why = f": {found.message}" if found.message else ""
        raise errors.WrongState(f"cannot use object {object_id}: it is {found.state.value}{why}")

    async def read(self, account_id: str, object_id: str) -> BuildContext:
        """The object, with the digest of its content: reads all of it."""
        opened = await self._objects.open(account_id, object_id)
        digest, size = hashlib.sha256(), 0
        async for chunk in opened.content:
            digest.update(chunk)
            size += len(chunk)
        return BuildContext(object_id, f"sha256:{digest.hexdigest()}", size)
