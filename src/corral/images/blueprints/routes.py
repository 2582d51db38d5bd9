"""HTTP of blueprints.

Owns the order of calls behind each route. Must not hold a rule about a blueprint: `recipes` and `service` do.
"""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Path, Query
from starlette.requests import Request

from corral.core import errors
from corral.http import params
from corral.http.model import MAX_INTEGER, NAME_CHARS, Nothing
from corral.images.blueprints import model, recipes, wire
from corral.images.blueprints.service import Blueprints

BlueprintId = Annotated[str, Path(pattern=wire.BLUEPRINT_ID)]
MetadataKey = Annotated[str, Path(max_length=256)]
Name = Annotated[str | None, Query(max_length=NAME_CHARS, pattern=r"\S")]


class BlueprintRoutes:
    """Create, look at and delete blueprints."""

    def __init__(self, blueprints: Blueprints) -> None:
        self._blueprints = blueprints

    async def create(self, request: Request, body: wire.BlueprintBody) -> wire.BlueprintView:
        """Begin to build a blueprint; its status tells when it can be used."""
        keep = params.keep(request)

        def kept(connection: sa.Connection, blueprint: model.Blueprint) -> None:
            if keep is not None:
                keep(connection, wire.blueprint_view(blueprint).model_dump_json(exclude_none=True).encode())

        return wire.blueprint_view(await self._blueprints.create(params.account_id(request), body, also=kept))

    async def create_from_inspection(self, request: Request, body: wire.FromInspectionBody) -> wire.BlueprintView:
        """Build from what was found out about a connected repository. No repositories are connected to this server."""
        recipes.refuse_later(body)
        wanted = body.inspection_source.inspection_id
        raise recipes.invalid("inspection_source.inspection_id", f"there is no inspection {wanted[:100]!r}")

    async def preview(self, request: Request, body: wire.BlueprintBody) -> wire.BlueprintPreviewView:
        """The Dockerfile that would be built."""
        text = await self._blueprints.preview(params.account_id(request), body)
        return wire.BlueprintPreviewView(dockerfile=text)

    async def retrieve(self, request: Request, blueprint_id: BlueprintId) -> wire.BlueprintView:
        """A blueprint, also one that was deleted."""
        return wire.blueprint_view(await self._blueprints.get(params.account_id(request), blueprint_id))

    async def list(
        self,
        request: Request,
        name: Name = None,
        status: Annotated[wire.Status | None, Query()] = None,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> wire.BlueprintListView:
        """Blueprints of the account, newest first, without deleted ones."""
        page = await self._blueprints.list(
            params.account_id(request),
            name=name,
            status=model.BlueprintStatus(status) if status is not None else None,
            limit=limit,
            starting_after=starting_after,
            count=include_total_count,
        )
        shown = [wire.blueprint_view(one) for one in page.items]
        return wire.BlueprintListView(blueprints=shown, has_more=page.has_more, total_count=page.total)

    async def list_public(
        self,
        request: Request,
        name: Name = None,
        status: Annotated[wire.Status | None, Query()] = None,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> wire.BlueprintListView:
        """Blueprints that are everybody's: this server has none."""
        if starting_after is not None:
            raise errors.Invalid(f"cannot list blueprints: starting_after: there is no blueprint {starting_after}")
        return wire.BlueprintListView(blueprints=[], has_more=False, total_count=0 if include_total_count else None)

    async def delete(self, request: Request, blueprint_id: BlueprintId, body: Nothing) -> dict[str, Any]:
        """Delete a blueprint. Devboxes that began as it go on. Refused while it has dependent snapshots."""
        await self._blueprints.delete(params.account_id(request), blueprint_id)
        return {}

    async def logs(
        self,
        request: Request,
        blueprint_id: BlueprintId,
        starting_after: Annotated[
            int, Query(ge=0, le=MAX_INTEGER, description="The number of the last line that came.")
        ] = 0,
    ) -> wire.BlueprintLogsView:
        """The log of its build so far, oldest first."""
        lines = await self._blueprints.logs(params.account_id(request), blueprint_id, after=starting_after)
        return wire.BlueprintLogsView(blueprint_id=blueprint_id, logs=[wire.log_view(line) for line in lines])

    async def metadata_keys(self, request: Request) -> wire.BlueprintKeysView:
        """Metadata keys that blueprints of the account have."""
        return wire.BlueprintKeysView(keys=await self._blueprints.metadata_keys(params.account_id(request)))

    async def metadata_values(self, request: Request, key: MetadataKey) -> wire.BlueprintValuesView:
        """What blueprints of the account have as the value of a metadata key."""
        values = await self._blueprints.metadata_values(params.account_id(request), key)
        return wire.BlueprintValuesView(key=key, values=values)

    async def public_metadata_keys(self, request: Request) -> wire.BlueprintKeysView:
        """As `metadata_keys`, of blueprints that are everybody's: there are none."""
        return wire.BlueprintKeysView(keys=[])

    async def public_metadata_values(self, request: Request, key: MetadataKey) -> wire.BlueprintValuesView:
        """As `metadata_values`, of blueprints that are everybody's: there are none."""
        return wire.BlueprintValuesView(key=key, values=[])
