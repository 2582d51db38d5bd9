"""A server that kills itself at its n-th commit: `python -m tests.crash.victim <n> before|after <seed of settings>`.

Owns where the blow falls. Settings come from the environment and `--listen`, `--data`, as for `corral serve`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import sqlalchemy as sa
import uvloop

from corral import daemon
from corral.core import events, log
from corral.core.settings import load
from corral.core.store.store import Store


class Doomed(Store):
    """Dies by SIGKILL just before, or just after, its commit number `at`."""

    at = 0
    after = False
    commits = 0

    def commit(self, connection: sa.Connection) -> None:
        Doomed.commits += 1
        if Doomed.commits == Doomed.at and not Doomed.after:
            os.kill(os.getpid(), signal.SIGKILL)
        super().commit(connection)
        if Doomed.commits == Doomed.at:
            os.kill(os.getpid(), signal.SIGKILL)


class Victim(daemon.Daemon):
    """The server as it is, but for its store."""

    def make_store(self, database: sa.Engine, feed: events.Feed) -> Store:
        return Doomed(database, feed)


def main(at: int, moment: str, listen: str, data: str) -> int:
    Doomed.at, Doomed.after = at, moment == "after"
    settings = load(os.environ, listen=listen, data=Path(data))
    log.configure()
    return uvloop.run(Victim(settings).run())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:5]))
