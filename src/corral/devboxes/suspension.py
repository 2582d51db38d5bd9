"""What is kept of a box while its devbox is suspended: its disk, and its memory where that is wanted and can be.

Owns the copy on the host and what the row says of it. Must not move the devbox to another state, nor remove its box:
`lifecycle` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.model import Devbox, KeepMemory, Kept, Memory, copy_of
from corral.runtime.contract import Copied, MemoryNotKept, Runtime, SnapshotExists

_NOT_WANTED: Final = "keep_memory is never"


class Suspension:
    """One for each store. Both calls can be cut off and done again."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime

    async def keep(self, devbox: Devbox) -> None:
        """Keep its disk; its memory too where it wants that and it can be: its box stands still then.

        Raises RuntimeFailure, of which MemoryNotKept only where the disk alone is not allowed.
        """
        wanted, message = devbox.request.keep_memory, _NOT_WANTED
        copied = None
        if wanted is not KeepMemory.NEVER:
            try:
                copied = await self._copy(self._runtime.checkpoint, devbox)
            except MemoryNotKept as problem:
                if wanted is KeepMemory.ALWAYS:
                    raise
                message = problem.message
        with_memory = copied is not None
        if copied is None:
            copied = await self._copy(self._runtime.snapshot, devbox)
        kept = Kept(copied.layers, copied.size)
        memory = Memory(with_memory, "" if with_memory else message, copied.memory, devbox.launch)
        await self._store.write(lambda connection: rows.keep(connection, devbox.id, kept, memory))

    async def forget(self, devbox_id: str) -> None:
        """Remove from the host what was kept; a box that stands still goes on. Raises HostUnfit."""
        await self._runtime.forget_snapshot(copy_of(devbox_id))

    async def _copy(self, take: Callable[[str, str], Awaitable[Copied]], devbox: Devbox) -> Copied:
        name = copy_of(devbox.id)
        try:
            return await take(devbox.id, name)
        except SnapshotExists:
            # Of a step that was cut off: the box has gone on since. Until there is another copy, none is promised.
            await self._store.write(lambda connection: rows.keep(connection, devbox.id, None, None))
            await self._runtime.forget_snapshot(name)
            return await take(devbox.id, name)
