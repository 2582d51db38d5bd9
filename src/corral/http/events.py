"""Server-sent events as the dialect's clients read them.

Owns the framing: `data:` lines only, comments to keep the connection alive, an `error` event to make clients resume,
the end of the stream as the only sign of its end. No `id:` or `retry:` line: the clients' decoders fail on them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from corral.core import errors
from corral.http import hold

#: Clients give up on a stream that is silent for 30 s.
KEEP_ALIVE_S: Final = 10.0

_COMMENT: Final = b": keep-alive\n\n"


class EventStream(Response):
    """Sends each object of `source` as one event. An error of `source` becomes an `error` event with its status."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncIterator[Mapping[str, Any]], *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.status_code = 200
        self.background = None
        self._source = source
        self._keep_alive_s = keep_alive_s
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        drain: hold.Drain = scope[hold.DRAIN]
        events = hold.held(self._source, receive, drain.future(), self._keep_alive_s)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # A client learns that the stream is open from its first bytes, before there is output.
        await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    frame = _COMMENT if isinstance(event, hold.Tick) else _data(event)
                    await hold.deliver(send, frame)
        except ClientDisconnect:
            return
        except errors.CorralError as error:
            body = {"code": error.status, "message": error.message, "kind": error.kind}
            await hold.deliver(send, b"event: error\n" + _data(body))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _data(event: Mapping[str, Any]) -> bytes:
    # ASCII only: a decoder that splits lines as Python's str.splitlines does would cut the text at U+2028 or U+0085.
    return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=True).encode() + b"\n\n"
