"""What an asyncio client does at the same time: sleep, and read several streams as one.

`corral_sdk._sync.concurrency` is its counterpart for threads, written by hand too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import httpx

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Chunks that wait for a slow reader before the network is left to wait too.
QUEUE_LENGTH = 8


class Source(Protocol[T_co]):
    """Something that can be read from and stopped."""

    def read(self) -> AsyncIterator[T_co]: ...

    async def stop(self) -> None: ...


async def sleep(seconds: float) -> None:
    """Pause this task."""
    await asyncio.sleep(seconds)


async def release(response: httpx.Response) -> None:
    """Close an answer that is still being read elsewhere."""
    await response.aclose()


async def merge(*sources: Source[T]) -> AsyncIterator[T]:
    """Yield what all sources give as it comes, until every one has ended; the first error ends them all.

    Leaving the loop early stops the sources: their tasks are cancelled and awaited here.
    """
    queue: asyncio.Queue[T | BaseException | None] = asyncio.Queue(QUEUE_LENGTH)

    async def pump(source: Source[T]) -> None:
        try:
            async for item in source.read():
                await queue.put(item)
                # A source that always has more would fill the queue again before another one's turn comes.
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
