"""Stored objects as the contexts of builds. Must not look into them: what builds from them does, in its own box."""

from __future__ import annotations

import hashlib
from typing import Final

from corral.core import errors
from corral.images.builds.model import BuildContext
from corral.storage.model import ObjectState
from corral.storage.service import Objects

#: The header of a gzip file up to its time (RFC 1952, 2.3).
_GZIP: Final = b"\x1f\x8b"
_TIME: Final = slice(4, 8)


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
        """The object, with the digest of its content: reads all of it.

        The time in the header of a gzip file is left out: the official clients pack the same files again for each
        build, and that time is all that differs then.
        """
        opened = await self._objects.open(account_id, object_id)
        digest, size, head = hashlib.sha256(), 0, bytearray()
        async for chunk in opened.content:
            size += len(chunk)
            missing = max(_TIME.stop - len(head), 0)
            head += chunk[:missing]
            if missing and len(head) == _TIME.stop:
                digest.update(_timeless(head))
            digest.update(chunk[missing:])
        if len(head) < _TIME.stop:
            digest.update(head)
        return BuildContext(object_id, f"sha256:{digest.hexdigest()}", size)


def _timeless(head: bytearray) -> bytes:
    if head.startswith(_GZIP):
        head[_TIME] = bytes(_TIME.stop - _TIME.start)
    return bytes(head)
