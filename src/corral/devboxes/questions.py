"""What other capabilities ask of devboxes, each in a transaction of theirs.

Must not write, and must not wait.
"""

from __future__ import annotations

import sqlalchemy as sa

from corral.devboxes import rows
from corral.devboxes.model import ENDED, Devbox, Kept, Observed
from corral.devboxes.tables import request_to_keep
from corral.runtime import contract


class Questions:
    """Each runs in the transaction of its caller. errors.NotFound is raised for what is not the account's."""

    def require_running(self, connection: sa.Connection, account_id: str, devbox_id: str, verb: str) -> None:
        """Raise errors.WrongState `cannot <verb> devbox …` unless it runs."""
        rows.require_running(connection, account_id, devbox_id, verb)

    def require_disk(self, connection: sa.Connection, account_id: str, devbox_id: str, verb: str) -> None:
        """As `require_running`, but a suspended one has a disk as well."""
        if rows.get(connection, account_id, devbox_id).observed is not Observed.SUSPENDED:
            rows.require_running(connection, account_id, devbox_id, verb)

    def asleep(self, connection: sa.Connection, devbox_id: str) -> Kept | None:
        """What is kept of the devbox's box, None unless it is suspended."""
        devbox = rows.find(connection, devbox_id)
        return devbox.kept if devbox is not None and devbox.observed is Observed.SUSPENDED else None

    def keeping(self, connection: sa.Connection) -> set[str]:
        """Devboxes whose disk is, or may be, kept apart from a box."""
        return rows.keeping(connection)

    def kept_layers(self, connection: sa.Connection) -> set[contract.Layer]:
        """Layers below disks that are kept apart from a box."""
        return rows.kept_layers(connection)

    def copied_often(self, connection: sa.Connection) -> list[tuple[Devbox, int]]:
        """Devboxes that run and want to be copied every so many seconds."""
        return rows.copied_often(connection)

    def has_ended(self, connection: sa.Connection, devbox_id: str) -> bool:
        """Whether the devbox will not run again, or is not known."""
        devbox = rows.find(connection, devbox_id)
        return devbox is None or devbox.observed in ENDED

    def request_of(self, connection: sa.Connection, devbox_id: str) -> dict[str, object]:
        """What a devbox was asked for with, for `create_again`; {} if it is not known."""
        devbox = rows.find(connection, devbox_id)
        return {} if devbox is None else request_to_keep(devbox.request)

    def begins_as(self, connection: sa.Connection, snapshot_id: str) -> bool:
        """Whether a devbox still waits for a box that begins as the snapshot."""
        return rows.begins_as(connection, snapshot_id)

    def of_blueprint(self, connection: sa.Connection, blueprint_id: str) -> bool:
        """Whether the image of the blueprint lies below a devbox that has not ended."""
        return rows.of_blueprint(connection, blueprint_id)
