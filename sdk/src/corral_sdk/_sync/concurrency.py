"""What a blocking client does at the same time: sleep, and read several streams as one, with a thread for each.

`corral_sdk._async.concurrency` is its counterpart for asyncio. Both are written by hand.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol, TypeVar

import httpx

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Chunks that wait for a slow reader before the network is left to wait too.
QUEUE_LENGTH = 8
#: Seconds that a stopped reader has to notice; its connection is shut down by then, so it does at once.
STOP_S = 5.0


class Source(Protocol[T_co]):
    """Something that can be read from and, from another thread, stopped."""

    def read(self) -> Iterator[T_co]: ...

    def stop(self) -> None: ...


def sleep(seconds: float) -> None:
    """Pause this thread."""
    time.sleep(seconds)


def release(response: httpx.Response) -> None:
    """End an answer that another thread is reading: that thread sees the end of the connection.

    Closing alone does not wake a thread that waits in recv; shutting the socket down does.
    """
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream is not None else None
    if connection is not None:
        with suppress(OSError):  # closed since: what was wanted
            connection.shutdown(socket.SHUT_RDWR)


def merge(*sources: Source[T]) -> Iterator[T]:
    """Yield what all sources give as it comes, until every one has ended; the first error ends them all.

    Leaving the loop early stops the sources: their connections are shut down and their threads joined here.
    """
    items: queue.Queue[T | BaseException | None] = queue.Queue(QUEUE_LENGTH)
    stopped = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                items.put(item, timeout=0.1)
                return

    def pump(source: Source[T]) -> None:
        try:
            for item in source.read():
                put(item)
                if stopped.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
            put(error)
        else:
            put(None)

    threads = [threading.Thread(target=pump, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            item = items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        stopped.set()
        for source in sources:
            source.stop()
        for thread in threads:
            thread.join(STOP_S)
