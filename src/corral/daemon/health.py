"""Whether boxes can be created: the answer of the health route."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.core.store.store import Store
from corral.daemon.machine import Machine
from corral.runtime.contract import MIB, BoxGone, HostUnfit
from corral.runtime.rootfs import filesystem

#: With less room than this on the data folder's disk no new box is promised.
LEAST_FREE: Final = 256 * MIB

#: Seconds that one question of the health check may take.
_PROBE_LIMIT_S: Final = 5.0


def remedy(problem: errors.CorralError | HostUnfit) -> str:
    """What follows the message of a problem: how to mend the host, where that is known."""
    return f"; {problem.remedy}" if isinstance(problem, HostUnfit) else ""


@dataclass(frozen=True, slots=True)
class Health:
    """Asks the disk, the store, the runtime and the images."""

    data: Path
    store: Store
    machine: Machine

    async def reasons(self) -> Sequence[str]:
        """Why boxes cannot be created, each with its remedy; nothing when they can."""
        found: list[str] = []
        room = {self.data: shutil.disk_usage(self.data).free}
        if (home := self.data / "pool").exists():
            room[home] = filesystem.left(home)
        for folder, free in room.items():
            if free < LEAST_FREE:
                found.append(f"cannot create boxes: only {free // MIB} MiB are free in {folder}; free some there")
        for ask in (self._store_writes, self._runtime_answers, self._image_is_there):
            try:
                async with asyncio.timeout(_PROBE_LIMIT_S):
                    await ask()
            except TimeoutError:
                found.append(f"cannot create boxes: {ask.__name__.strip('_').replace('_', ' ')}: no answer in time")
            except (errors.CorralError, HostUnfit) as problem:
                found.append(problem.message + remedy(problem))
        return found

    async def _store_writes(self) -> None:
        await self.store.write(lambda _connection: None)

    async def _runtime_answers(self) -> None:
        with contextlib.suppress(BoxGone):  # which is an answer; a list would cost by the number of boxes
            await self.machine.runtime.inspect("dbx_health")

    async def _image_is_there(self) -> None:
        self.machine.images.resolve(None)
