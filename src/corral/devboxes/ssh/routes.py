"""HTTP of SSH: the making of a key."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from corral.devboxes import service, views
from corral.devboxes.routes import DevboxId
from corral.http import params
from corral.http.model import Nothing
from corral.identity.model import Caller


class SshRoutes:
    """Make keys with which a devbox is entered by SSH."""

    def __init__(self, keys: service.SshKeys) -> None:
        self._keys = keys

    async def create_key(self, request: Request, devbox_id: DevboxId, body: Nothing) -> views.SshKeyView:
        """A new key for the devbox, which ends with it, and no later than the API key that it is made with."""
        caller = cast("Caller", request.scope[params.CALLER])
        created = await self._keys.create(
            caller.account_id, devbox_id, api_key_id=caller.key_id, expires_at_ms=caller.expires_at_ms
        )
        return views.SshKeyView(
            id=created.devbox_id,
            url=created.host,
            ssh_user=created.user,
            ssh_private_key=created.private_key,
            ssh_port=created.entrance.port,
            ssh_host_key=created.entrance.host_key,
        )
