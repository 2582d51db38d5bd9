"""TCP ports of running devboxes: connections to what listens on their loopback.

Owns the check of who asks. Must not connect to anything but the loopback of that devbox.
"""

from __future__ import annotations

from corral.core.store.store import Store
from corral.devboxes import rows
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import ByteStream, Runtime


class Ports:
    """Raises errors.NotFound for what is not the account's, errors.WrongState when nothing listens or runs."""

    def __init__(self, store: Store, runtime: Runtime, vitals: Vitals) -> None:
        self._store = store
        self._runtime = runtime
        self._vitals = vitals

    async def connect(self, account_id: str, devbox_id: str, port: int) -> ByteStream:
        """Connect to a port of the devbox's loopback. The caller closes the stream."""
        await self._store.read(lambda one: rows.require_running(one, account_id, devbox_id, "connect to a port of"))
        with self._vitals.watching(devbox_id):
            return await self._runtime.connect(devbox_id, port)
