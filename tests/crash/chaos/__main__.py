"""`python -m tests.crash.chaos`: what `make chaos` runs."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.crash.chaos.ledger import ENV, Broken
from tests.crash.chaos.run import Chaos
from tests.harness.server import Server


def main() -> int:
    """1 when the invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="corral-chaos-", ignore_cleanup_errors=True) as folder,
        Server(Path(folder) / "data", runtime="oci", env=ENV) as server,
    ):
        try:
            Chaos(server, seed).run(given.seconds)
        except Broken as problem:
            print(problem, file=sys.stderr)
            return 1
    print(f"the invariant held; seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
