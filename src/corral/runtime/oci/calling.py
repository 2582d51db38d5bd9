"""Calls of CRIU by way of the launcher: which program, with what limit, and staying until it has ended.

Must not know what is dumped or made.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.tasks import settled
from corral.runtime.contract import MemoryNotKept
from corral.runtime.oci import criu, wire

if TYPE_CHECKING:
    from corral.runtime.oci.host import Host

#: For CRIU to end once it was told to.
ABORT_LIMIT_S: Final = 10.0


class Caller:
    """Of one host. `folder` has the CRIU that the set-up put there."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._program: criu.Criu | None = None

    @property
    def cache(self) -> Path:
        """Where it is kept what this kernel can."""
        return self._host.places.memory / "criu"

    async def program(self) -> criu.Criu:
        """The program. Raises criu.NoCriu."""
        if self._program is None:
            self._program = await settled(asyncio.to_thread(self._find))
        return self._program

    def _find(self) -> criu.Criu:
        found = criu.find(self._folder)
        criu.prepare(found, self.cache)
        return found

    async def ask(self, op: str, limit_s: float, **fields: object) -> wire.Message:
        """Ask the launcher, and stay until CRIU has ended, even when cancelled: it is inside the box's processes."""
        asked = asyncio.ensure_future(self._host.launcher.request(op, limit_s + 2 * ABORT_LIMIT_S, **fields))
        try:
            done, _ = await asyncio.wait({asked}, timeout=limit_s)
            if not done:
                self._host.launcher.tell("abort", box=fields["box"])
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            await asyncio.wait({asked}, timeout=ABORT_LIMIT_S)
            raise
        except TimeoutError as error:
            message = f"cannot {op} box {fields['box']}: criu did not end within {limit_s:.0f} s"
            raise MemoryNotKept(message) from error
