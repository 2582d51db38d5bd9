"""Where a reader of a log is: what comes after it, and nothing before, is sent when the reader comes back.

Owns the text of a cursor, which clients keep and give back: it is hostile input. Must not read a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from corral.core import errors
from corral.runtime.contract import Stream

#: Commands whose output is followed at once, so that a cursor stays short enough for a query.
OPEN: Final = 256

#: Order of the offsets of a command in a cursor.
STREAMS: Final = (Stream.STDOUT, Stream.STDERR)

_NUMBER: Final = "[0-9]{1,15}"
_FORM: Final = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})((?:~[0-9A-Za-z_-]{{1,64}}\.{_NUMBER}\.{_NUMBER}){{0,{OPEN}}})", re.ASCII
)


@dataclass(slots=True)
class Cursor:
    """`events` and `calls` are the numbers of the devbox's last event and file call that were sent.

    `offsets` has, for each command that has begun and not ended, how many bytes of STREAMS were sent. Commands that
    began up to event number `past` were there when the reader first came: of their output the last lines are shown.
    """

    events: int = 0
    calls: int = 0
    past: int = 0
    offsets: dict[str, list[int]] = field(default_factory=dict)

    def text(self) -> str:
        """The cursor as clients keep it: of characters that need no escape in a query."""
        places = "".join(f"~{name}.{out}.{err}" for name, (out, err) in self.offsets.items())
        return f"{self.events}.{self.calls}.{self.past}{places}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises errors.Invalid for what no server of this version wrote."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise errors.Invalid("cannot follow log: starting_after: is not the cursor of a line")
        told, calls, past, places = match.groups()
        offsets = {}
        for place in places.split("~")[1:]:
            name, out, err = place.split(".")
            offsets[name] = [int(out), int(err)]
        return cls(int(told), int(calls), int(past), offsets)
