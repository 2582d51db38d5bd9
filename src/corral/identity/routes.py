"""HTTP of accounts and API keys."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from corral.http import params
from corral.identity import wire
from corral.identity.model import Caller
from corral.identity.service import Identity


class IdentityRoutes:
    """Who the caller is, and further keys."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def me(self, request: Request) -> wire.AccountView:
        """The account of the key."""
        return wire.account_view(await self._identity.account(params.account_id(request)))

    async def create_key(self, request: Request, body: wire.CreateKeyBody) -> wire.KeyView:
        """Make another key for the same account, with the rights of this one."""
        created = await self._identity.create_key(
            _caller(request), name=body.name or "", expires_at_ms=body.expires_at_ms
        )
        return wire.key_view(created)

    async def create_restricted_key(
        self, request: Request, body: wire.CreateRestrictedKeyBody
    ) -> wire.RestrictedKeyView:
        """Make a key for the same account that may do only what its scopes say, and no more than this one."""
        scopes = wire.scopes(body.scopes)
        created = await self._identity.create_key(
            _caller(request), name=body.name or "", expires_at_ms=body.expires_at_ms, scopes=scopes
        )
        return wire.restricted_key_view(created)


def _caller(request: Request) -> Caller:
    return cast("Caller", request.scope[params.CALLER])
