"""What Dockerfiles of an account name by FROM: its blueprints, before the images of the host."""

from __future__ import annotations

import sqlalchemy as sa

from corral.core import errors
from corral.images.blueprints.service import BlueprintRules
from corral.images.builds.library import Library
from corral.images.builds.service import Base, HostBases


class BlueprintBases:
    """See `builds.service.Bases`."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._host = HostBases(library)
        self._rules = BlueprintRules()

    def find(self, connection: sa.Connection, account_id: str, name: str) -> Base | None:
        """What the account's Dockerfiles mean by this name; None when there is no such image."""
        image = self._rules.base(connection, account_id, name)
        if image is None:
            return self._host.find(connection, account_id, name)
        try:
            found = self._library.resolve(image)
        except errors.NotFound:
            return None
        return Base(found.name, found.digest)
