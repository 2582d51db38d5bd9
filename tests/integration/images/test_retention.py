"""Which remote copies of a devbox stay: the newest, and what those need."""

from __future__ import annotations

import sqlalchemy as sa

from corral.core.store import schema
from corral.images import remote_rows as copies
from corral.images.model import RemoteState

COMPLETE = (RemoteState.COMPLETE,)


def test_the_newest_copies_stay_and_what_they_need() -> None:
    engine = sa.create_engine("sqlite://")
    schema.METADATA.create_all(engine)
    with engine.connect() as connection:
        parent = None
        for number in range(4):
            copy = copies.insert(connection, f"rcp_{number}", "acc", "dbx", f"snp_{number}", number, automatic=True)
            copies.begin(connection, copy.id, parent)
            copies.move(connection, copy.id, (RemoteState.IN_PROGRESS,), RemoteState.COMPLETE, number, stored=1)
            parent = copies.find(connection, copy.id)
        assert parent is not None
        assert parent.level == 3
        spent, snapshots = copies.spent(connection, "dbx", 2)
        # The next difference begins at the newest one's snapshot.
        assert (spent, snapshots) == (["rcp_1", "rcp_0"], ["snp_2", "snp_1", "snp_0"])
        for copy_id in spent:
            assert copies.move(connection, copy_id, COMPLETE, RemoteState.DELETED, 9)
        assert copies.to_do(connection) == spent[::-1]
        assert [copies.is_needed(connection, f"rcp_{number}") for number in range(4)] == [True, True, True, False]
        # They go one after another, once the later ones are gone.
        for number in (3, 2):
            copies.move(connection, f"rcp_{number}", COMPLETE, RemoteState.DELETED, 9)
            copies.forgotten(connection, f"rcp_{number}")
        assert not copies.is_needed(connection, "rcp_1")
        assert copies.old(connection, 100) == []
