"""HTTP of disk snapshots.

Owns the order of calls behind each route. Must not hold a rule about a snapshot: `snapshots` does.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import sqlalchemy as sa
from fastapi import Path, Query
from starlette.requests import Request

from corral.core import errors
from corral.http import hold, params
from corral.http.model import Nothing
from corral.images import model, wire
from corral.images.snapshots import Snapshots

#: Clients wait ten minutes.
TAKE_HOLD_S: Final = 590.0

_DEVBOX_ID: Final = r"^dbx_[0-9A-Za-z]{21}$"

DevboxId = Annotated[str, Path(pattern=_DEVBOX_ID)]
SnapshotId = Annotated[str, Path(pattern=wire.SNAPSHOT_ID)]
MetadataKey = Annotated[str, Path(max_length=256)]


class SnapshotRoutes:
    """Take, look at, rename and delete snapshots."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    async def take(self, request: Request, devbox_id: DevboxId, body: wire.SnapshotBody) -> wire.SnapshotView:
        """Copy the devbox's disk and answer when the copy is complete."""
        account_id = params.account_id(request)
        snapshot = await self._snapshots.take(account_id, devbox_id, _wish(body))
        snapshot = await hold.hold(request, self._snapshots.wait(account_id, snapshot.id, TAKE_HOLD_S))
        if snapshot.status is model.SnapshotStatus.ERROR:
            raise errors.WrongState(f"cannot snapshot devbox {devbox_id}: {snapshot.message}")
        return wire.snapshot_view(snapshot)

    async def take_async(self, request: Request, devbox_id: DevboxId, body: wire.SnapshotBody) -> wire.SnapshotView:
        """Begin to copy the devbox's disk; its status tells when the copy is complete."""
        keep = params.keep(request)

        def kept(connection: sa.Connection, snapshot: model.Snapshot) -> None:
            if keep is not None:
                keep(connection, wire.snapshot_view(snapshot).model_dump_json(exclude_none=True).encode())

        account_id = params.account_id(request)
        return wire.snapshot_view(await self._snapshots.take(account_id, devbox_id, _wish(body), also=kept))

    async def status(self, request: Request, snapshot_id: SnapshotId) -> wire.SnapshotStatusView:
        """Where the making of a snapshot is."""
        return wire.status_view(await self._snapshots.get(params.account_id(request), snapshot_id))

    async def list(
        self,
        request: Request,
        devbox_id: Annotated[str | None, Query(pattern=_DEVBOX_ID)] = None,
        source_blueprint_id: Annotated[str | None, Query(max_length=256, pattern=r"\S")] = None,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> wire.SnapshotListView:
        """Snapshots of the account, newest first. `metadata[key]=value` filters by metadata."""
        metadata = params.metadata_filter(request)
        page = await self._snapshots.list(
            params.account_id(request),
            devbox_id=devbox_id,
            blueprint_id=source_blueprint_id,
            metadata=metadata,
            limit=limit,
            starting_after=starting_after,
            count=include_total_count,
        )
        shown = [wire.snapshot_view(snapshot) for snapshot in page.items]
        return wire.SnapshotListView(snapshots=shown, has_more=page.has_more, total_count=page.total)

    async def list_public(self, request: Request) -> wire.SnapshotListView:
        """Snapshots that are everybody's: this server has none."""
        return wire.SnapshotListView(snapshots=[], has_more=False, total_count=0)

    async def update(self, request: Request, snapshot_id: SnapshotId, body: wire.SnapshotBody) -> wire.SnapshotView:
        """Replace name, message or metadata, those that are sent."""
        given = {name: value for name, value in body.model_dump().items() if value is not None}
        return wire.snapshot_view(await self._snapshots.update(params.account_id(request), snapshot_id, given))

    async def delete(self, request: Request, snapshot_id: SnapshotId, body: Nothing) -> dict[str, Any]:
        """Delete a snapshot. Devboxes that began as it keep their disks."""
        await self._snapshots.delete(params.account_id(request), snapshot_id)
        return {}

    async def metadata_keys(self, request: Request) -> wire.SnapshotKeysView:
        """Metadata keys that snapshots of the account have."""
        return wire.SnapshotKeysView(keys=await self._snapshots.metadata_keys(params.account_id(request)))

    async def metadata_values(self, request: Request, key: MetadataKey) -> wire.SnapshotValuesView:
        """What snapshots of the account have as the value of a metadata key."""
        values = await self._snapshots.metadata_values(params.account_id(request), key)
        return wire.SnapshotValuesView(key=key, values=values)

    async def public_metadata_keys(self, request: Request) -> wire.SnapshotKeysView:
        """As `metadata_keys`, of snapshots that are everybody's: there are none."""
        return wire.SnapshotKeysView(keys=[])

    async def public_metadata_values(self, request: Request, key: MetadataKey) -> wire.SnapshotValuesView:
        """As `metadata_values`, of snapshots that are everybody's: there are none."""
        return wire.SnapshotValuesView(key=key, values=[])


def _wish(body: wire.SnapshotBody) -> model.SnapshotWish:
    return model.SnapshotWish(body.name, body.commit_message, body.metadata or {})
