"""The host's side of corral-guest, process 1 of every box; guest/PROTOCOL.md is the line between the two.

Owns sockets to guests and what is believed of their answers. Must not open a path of a box, nor know how boxes
are made.
"""

from __future__ import annotations

from corral.runtime.guest.client import GuestClient as GuestClient
from corral.runtime.guest.follow import Following as Following
from corral.runtime.guest.model import ExecutionState as ExecutionState
from corral.runtime.guest.model import Hello as Hello
