"""Work on images that blocks, for who waits for it on the event loop.

Owns that nothing outlives its waiting: cancelled, the work is told to stop and waited for, and its folder is removed
after it. Must not know what the work is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from corral.core import errors
from corral.core.tasks import settled
from corral.images.archives.model import Task
from corral.images.store import ImageStore

T = TypeVar("T")


@contextlib.asynccontextmanager
async def working(store: ImageStore, task: Task) -> AsyncIterator[Path]:
    """A folder of the store to work in; removed at the end, in a thread: it may be large."""
    context = store.working()
    folder = await asyncio.to_thread(context.__enter__)
    try:
        yield folder
    finally:
        task.stop()
        await settled(asyncio.to_thread(context.__exit__, None, None, None))


async def threaded(task: Task, work: Callable[[], T]) -> T:
    """Run in a thread. Cancelled, it is told to stop and waited for: it works in a folder that is removed then."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        task.stop()
        with contextlib.suppress(errors.CorralError):
            await settled(running)
        raise
