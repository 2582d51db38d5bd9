"""HTTP of remote copies of snapshots. All of it is Corral's own.

Owns the order of calls behind each route. Must not hold a rule about a copy: `remote` does.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from starlette.requests import Request

from corral.http import params
from corral.http.model import Nothing
from corral.images import wire
from corral.images.remote import RemoteCopies

SnapshotId = Annotated[str, Path(pattern=wire.SNAPSHOT_ID)]
CopyId = Annotated[str, Path(pattern=wire.COPY_ID)]


class RemoteRoutes:
    """Push, find, pull and delete remote copies, and begin a devbox as one that was pulled."""

    def __init__(self, copies: RemoteCopies) -> None:
        self._copies = copies

    async def push(self, request: Request, snapshot_id: SnapshotId, body: Nothing) -> wire.RemoteView:
        """Begin to copy a snapshot to the object store; the copy's status tells when it is there."""
        return wire.remote_view(await self._copies.push(params.account_id(request), snapshot_id))

    async def list(
        self, request: Request, devbox_id: Annotated[str | None, Query(pattern=r"^dbx_[0-9A-Za-z]{21}$")] = None
    ) -> wire.RemoteListView:
        """Remote copies of the account, newest first, of lost servers too whose accounts this one recovers."""
        found = await self._copies.list(params.account_id(request), devbox_id)
        return wire.RemoteListView(remote_copies=[wire.remote_view(copy) for copy in found])

    async def retrieve(self, request: Request, copy_id: CopyId) -> wire.RemoteView:
        """A remote copy as it is now."""
        return wire.remote_view(await self._copies.get(params.account_id(request), copy_id))

    async def pull(self, request: Request, copy_id: CopyId, body: Nothing) -> wire.SnapshotView:
        """Begin to make a snapshot of a remote copy; the snapshot's status tells when devboxes can begin as it."""
        return wire.snapshot_view(await self._copies.pull(params.account_id(request), copy_id))

    async def delete(self, request: Request, copy_id: CopyId, body: Nothing) -> dict[str, Any]:
        """Delete a remote copy. What later ones need of it goes with those."""
        await self._copies.delete(params.account_id(request), copy_id)
        return {}

    async def restore(self, request: Request, snapshot_id: SnapshotId, body: Nothing) -> wire.RestoredView:
        """A new devbox that begins as a snapshot which was pulled, with what its devbox was asked for with."""
        devbox = await self._copies.restore(params.account_id(request), snapshot_id)
        return wire.RestoredView(devbox_id=devbox.id)
