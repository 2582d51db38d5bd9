"""HTTP of accounts and API keys."""

from __future__ import annotations

from starlette.requests import Request

from corral.http import params
from corral.identity import wire
from corral.identity.service import Identity


class IdentityRoutes:
    """Who the caller is, and further keys."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def me(self, request: Request) -> wire.AccountView:
        """The account of the key."""
        return wire.account_view(await self._identity.account(params.account_id(request)))

    async def create_key(self, request: Request, body: wire.CreateKeyBody) -> wire.KeyView:
        """Make a full key for the same account."""
        created = await self._identity.create_key(
            params.account_id(request), name=body.name or "", expires_at_ms=body.expires_at_ms
        )
        return wire.key_view(created)
