"""The harm that chaos does: to the server, to boxes from outside, and from inside them.

Each blow notes in the ledger what its victim must end with before it falls. Which one falls on whom is `run.py`'s lot.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.crash.chaos.client import Caller, Refused
from tests.crash.chaos.ledger import HUNG, KILLED, Box, Broken, Ledger

#: In a box of 1 GiB: this is over its limit, at once.
HOG: Final = "python3 -c 'bytearray(1500 << 20)'"
#: Ends when not even 1 MiB is left, without a byte being written to the host's disk.
FILL: Final = (
    "n=0; for size in 1G 256M 64M 16M 4M 1M; do "
    "while n=$((n + 1)) && fallocate -l $size /tmp/fill$n 2> /dev/null; do :; done; done; "
    "fallocate -l 2M /tmp/more 2> /dev/null || echo full; rm -f /tmp/fill* /tmp/more; sync"
)
PURGE: Final = "sudo -n sh -c 'kill -9 1; kill -9 -1'"
#: The filesystem counts what was removed a moment later.
ROOM_S: Final = 3.0
APPEARS_S: Final = 20.0


def kill_server(ledger: Ledger, lot: random.Random) -> None:
    """SIGKILL, a while without any server, then the next."""
    pause = lot.uniform(0, 1.5)
    with ledger.outage():
        ledger.server.kill9()
        time.sleep(pause)
        ledger.server.start()


def end_server(ledger: Ledger, lot: random.Random) -> None:
    """SIGTERM, with requests under way, then the next."""
    pause = lot.uniform(0, 0.5)
    with ledger.outage():
        if code := ledger.server.stop(timeout=60):
            raise Broken(f"the server ended with {code} after SIGTERM")
        time.sleep(pause)
        ledger.server.start()


def kill_guest(ledger: Ledger, _: Caller, box: Box) -> None:
    """SIGKILL to process 1 from the host."""
    _signal_guest(ledger, box, signal.SIGKILL, KILLED)


def stop_guest(ledger: Ledger, _: Caller, box: Box) -> None:
    """SIGSTOP to process 1 from the host: it lives, and answers nothing."""
    _signal_guest(ledger, box, signal.SIGSTOP, HUNG)


def _signal_guest(ledger: Ledger, box: Box, number: signal.Signals, reasons: frozenset[str]) -> None:
    pid = ledger.process_1(box)
    if pid is None:
        return
    # By a descriptor: were the box removed meanwhile, its number could be another process's.
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if ledger.process_1(box) == pid:
            box.must_end(reasons)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
    finally:
        os.close(process)


def kill_group(ledger: Ledger, _: Caller, box: Box) -> None:
    """SIGKILL to all processes of the box's control group at once, as a host that is out of memory may do."""
    box.must_end(KILLED)
    ledger.group(box).kill()


def kill_process(ledger: Ledger, caller: Caller, box: Box) -> None:
    """SIGKILL from the host to one command: it ends by that signal, and nothing else does."""
    mark = f"36{ledger.number():07d}"
    execution_id = caller.execute(box, f"exec sleep {mark}", "", 137)
    deadline = time.monotonic() + APPEARS_S
    while not (found := [pid for pid in ledger.group(box).processes() if _argv(pid) == ["sleep", mark]]):
        if box.ends:
            return
        if time.monotonic() > deadline:
            raise Broken(f"{execution_id} in {box} is not among the processes of its box")
        time.sleep(0.02)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    caller.completed(execution_id)


def hog(_: Ledger, caller: Caller, box: Box) -> None:
    """More memory than the box may have: the command is killed, the box lives."""
    box.hogged_at = time.monotonic()
    execution_id = caller.execute(box, HOG, "", 137)
    caller.completed(execution_id)
    box.hogged_at = time.monotonic()


def fill(_: Ledger, caller: Caller, box: Box) -> None:
    """A disk without room, then with room again: the box lives through both."""
    box.full += 1
    try:
        caller.completed(caller.execute(box, FILL, "full\n", 0))
        time.sleep(ROOM_S)
    finally:
        box.full -= 1


def purge(_: Ledger, caller: Caller, box: Box) -> None:
    """Root kills all that it may in the box: commands end, process 1 does not, and the next command runs."""
    box.purges, box.purged = box.purges + 1, box.purged + 1
    try:
        caller.completed(caller.execute(box, PURGE, "", 137))
    finally:
        box.purged -= 1
    caller.completed(caller.execute(box, "echo lives", "lives\n", 0))


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:  # it has ended
        return []


ON_SERVER: Final[Mapping[str, Callable[[Ledger, random.Random], None]]] = {
    "kill the server": kill_server,
    "end the server": end_server,
}
ON_BOX: Final[Mapping[str, Callable[[Ledger, Caller, Box], None]]] = {
    "kill the guest": kill_guest,
    "stop the guest": stop_guest,
    "kill the group": kill_group,
    "kill a command": kill_process,
    "take all memory": hog,
    "fill the disk": fill,
    "kill from inside": purge,
}


def fall(name: str, ledger: Ledger, caller: Caller, box: Box) -> None:
    """A blow on a box. A refusal is in order when the box was ended meanwhile."""
    try:
        ON_BOX[name](ledger, caller, box)
    except Refused as refused:
        if not box.ends:
            raise Broken(f"unharmed {box}: {refused}") from refused
