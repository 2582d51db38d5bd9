"""Tasks that outlive the call that starts them, and work that outlives a cancel of it.

`TaskOwner` owns the former until they end: `close` cancels and awaits what still runs. Must not restart anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from corral.core import errors, log

T = TypeVar("T")


async def settled(work: Awaitable[T]) -> T:
    """Wait for work that cannot be stopped half-way (a thread); a cancel is raised after its end, not before."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class TaskOwner:
    """Tasks that fail on their own: unlike in a TaskGroup, one failure leaves the others alone.

    A failure that nobody awaits is logged as an error of Corral.
    """

    def __init__(self, part: str) -> None:
        self._log = log.get(part)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `work` and own it. Raises errors.Unavailable once `close` was called."""
        if self._closed:
            work.close()
            raise errors.Unavailable("cannot start this: the server is stopping")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel what still runs and wait for its end. Safe to call twice."""
        self._closed = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __len__(self) -> int:
        return len(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, errors.CorralError):
            self._log.error("task failed", task=task.get_name(), exc_info=error)
