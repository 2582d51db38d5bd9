"""Chaos: clients at work on one server while blows fall on it and on their devboxes, and the judgement.

The seed decides what each client does and which blow follows which on whom; how they meet is up to the machine.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.leftovers import gone

from tests.crash.chaos import blows
from tests.crash.chaos.client import Caller, Client, Refused
from tests.crash.chaos.ledger import SETTLES_S, SHUT, Box, Broken, Ledger
from tests.harness.server import Server

CLIENTS: Final = 4
PAUSE_S: Final = (0.1, 1.0)
#: Between two looks at all rows and boxes.
LOOK_S: Final = 2.0
#: The server without boxes, against what it had when it was fresh: pools of connections and buffers.
FILES_MORE: Final = 16
MEMORY_MORE_MIB: Final = 96


class Chaos:
    """One run on a fresh server. `history` has the blows so far."""

    def __init__(self, server: Server, seed: int, say: Callable[[str], None] = print) -> None:
        self.ledger = Ledger(server)
        self.history: list[str] = []
        self.seed = seed
        self._say = say
        self._lot = random.Random(f"{seed} blows")
        self._clients = [Client(self.ledger, f"{seed} client {number}") for number in range(CLIENTS)]
        self._caller = Caller(self.ledger)
        self._looked = 0.0

    def run(self, seconds: float) -> None:
        """Let every kind of blow fall, and go on for `seconds`; then shut all down, stop the server and judge.

        Raises Broken, with the seed and the history of blows.
        """
        fresh = (files(self.ledger.server), memory_mib(self.ledger.server))
        threads = [threading.Thread(target=client.run) for client in self._clients]
        try:
            for thread in threads:
                thread.start()
            try:
                self._fall(seconds)
            finally:
                self.ledger.stop.set()
                for thread in threads:
                    thread.join()
            self._fail_if_broken()
            self._settle()
            self._check_all()
            self._end_all()
            self._weigh(*fresh)
            self._stop()
        except (Broken, Refused) as problem:
            history = "\n".join(self.history)
            message = f"seed {self.seed}: {problem}\nblows:\n{history}\nlog:\n{self.ledger.server.log_tail()}"
            raise Broken(message) from problem

    # -- blows

    def _fall(self, seconds: float) -> None:
        began = time.monotonic()
        kinds = [*blows.ON_SERVER, *blows.ON_BOX]
        while not self.history or time.monotonic() - began < seconds:
            for name in self._lot.sample(kinds, len(kinds)):
                self._blow(name)
                self._fail_if_broken()
                self._look()
                time.sleep(self._lot.uniform(*PAUSE_S))

    def _blow(self, name: str) -> None:
        which = self._lot.randrange(CLIENTS * len(self._clients[0].slots))
        at = f"{len(self.history):4} {name}"
        if name in blows.ON_SERVER:
            self._note(at)
            blows.ON_SERVER[name](self.ledger, self._lot)
            return
        box = self._victim(which)
        self._note(f"{at}: {which} {box.id}")
        blows.fall(name, self.ledger, self._caller, box)

    def _victim(self, which: int) -> Box:
        """The box in this slot of all clients' slots, or the first after it that is unharmed."""
        deadline = time.monotonic() + SETTLES_S
        while time.monotonic() < deadline and not self.ledger.broken:
            slots = [box for client in self._clients for box in client.slots]
            for box in slots[which:] + slots[:which]:
                if box is not None and not box.ends:
                    return box
            time.sleep(0.05)
        self._fail_if_broken()
        raise Broken(f"no client has had a devbox for {SETTLES_S:.0f} s")

    def _note(self, text: str) -> None:
        self.history.append(text)
        self._say(text)

    # -- judgement

    def _fail_if_broken(self) -> None:
        if self.ledger.broken:
            raise Broken("; ".join(self.ledger.broken))

    def _look(self) -> None:
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self.ledger.audit(self._caller.views())

    def _settle(self) -> None:
        """Wait until rows, host and promises agree."""
        while self.ledger.audit(self._caller.views()):
            time.sleep(0.2)

    def _check_all(self) -> None:
        """Every command has ended as it had to, and every file of a living box is as it was written."""
        for execution_id in list(self.ledger.promises):
            self._caller.completed(execution_id)
        for box in self.ledger.boxes.values():
            for path in box.files if not box.ends else ():
                Client.check_file(self._caller, box, path)

    def _end_all(self) -> None:
        """Every devbox may be shut down, whatever became of it; nothing of it is on the host soon after."""
        for devbox_id in self._caller.views():
            self.ledger.boxes.setdefault(devbox_id, Box(devbox_id)).must_end(SHUT)
            self._caller.call("POST", f"/v1/devboxes/{devbox_id}/shutdown")
        self._settle()

    def _weigh(self, files_then: int, memory_then: float) -> None:
        server = self.ledger.server
        deadline = time.monotonic() + 10
        while (open_now := files(server)) > files_then + FILES_MORE and time.monotonic() < deadline:
            time.sleep(0.2)
        grown = memory_mib(server) - memory_then
        counts = f"{len(self.ledger.boxes)} devboxes, {len(self.ledger.promises)} commands, {len(self.history)} blows"
        self._say(f"{counts}; the server has {open_now - files_then} more files open and {grown:.0f} MiB more memory")
        if open_now > files_then + FILES_MORE:
            raise Broken(f"the server without boxes has {open_now} files open, and had {files_then}")
        if grown > MEMORY_MORE_MIB:
            raise Broken(f"the server without boxes has {grown:.0f} MiB more memory than when it was fresh")

    def _stop(self) -> None:
        self._caller.close()
        self.ledger.server.stop(timeout=60)
        if left := asyncio.run(gone(self.ledger.places, within_s=30)):
            raise Broken(f"left on the host: {left}")


def files(server: Server) -> int:
    """How many files the server has open."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def memory_mib(server: Server) -> float:
    """Resident memory of the server's own process."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
