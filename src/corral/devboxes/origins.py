"""What devboxes have to know of what they begin as: snapshots and blueprints, which are another capability's."""

from __future__ import annotations

from typing import Protocol

import sqlalchemy as sa

from corral.devboxes.model import Devbox, KeepMemory, Origin, Parent


class Snapshots(Protocol):
    """What devboxes have to know of snapshots. Each call runs in the transaction of its caller."""

    def require(self, connection: sa.Connection, account_id: str, snapshot_id: str) -> Parent:
        """What it is of. Raises errors.CorralError unless the account's devboxes can begin as it."""

    def require_remote(self) -> None:
        """Raise errors.NotOffered when disks cannot be copied to an object store."""

    def begin(self, connection: sa.Connection, devbox: Devbox, memory: KeepMemory) -> str:
        """Have the devbox copied for others that are made in this transaction; the snapshot goes once they run.

        `memory` says whether they are to go on with its processes.
        """

    def in_progress(self, connection: sa.Connection, devbox_id: str) -> bool:
        """Whether the devbox is about to be copied."""


class Blueprints(Protocol):
    """What devboxes have to know of blueprints. Each call runs in the transaction of its caller."""

    def by_id(self, connection: sa.Connection, account_id: str, blueprint_id: str) -> Origin:
        """The account's blueprint. Raises errors.CorralError unless devboxes can begin as it."""

    def by_name(self, connection: sa.Connection, account_id: str, name: str) -> Origin:
        """Of the account's blueprints of this name the latest one that was built. Raises errors.CorralError."""
