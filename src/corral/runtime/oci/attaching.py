"""Gives a network to a box that CRIU makes again: called by it when the namespaces are there and nothing runs in them.

Standard library only. `CRTOOLS_INIT_PID` is the process that has the namespaces, `SLOT_WISH` a slot's wish as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from corral.runtime.linux import netlink, syscalls
from corral.runtime.network import namespace


def attach(environment: Mapping[str, str]) -> None:
    """Join the network namespace to the host. Raises OSError."""
    wish = namespace.SlotWish(**json.loads(environment["SLOT_WISH"]))
    host = namespace.Outside.open()
    net = os.open(f"/proc/{int(environment['CRTOOLS_INIT_PID'])}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(net, syscalls.CLONE_NEWNET)
    inside = netlink.Route.open()
    syscalls.setns(own, syscalls.CLONE_NEWNET)
    namespace.connect(wish, host, inside, net)


if __name__ == "__main__":
    attach(os.environ)
