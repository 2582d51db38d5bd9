"""A real HTTP server on the loopback whose answers a test writes down, in order, and which keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What is sent back. `breaks` sends `body` as the begin of a longer one and cuts the connection."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False
    silent: bool = False  #: cut the connection without an answer


def answer(value: object, status: int = 200, **headers: str) -> Answer:
    """An answer in JSON; names of headers with _ for -."""
    return Answer(status, json.dumps(value).encode(), {name.replace("_", "-"): text for name, text in headers.items()})


def problem(status: int, kind: str, message: str, **headers: str) -> Answer:
    """An error as the server sends it."""
    return answer({"code": status, "message": message, "kind": kind}, status, **headers)


def events(*chunks: tuple[str, int], then: str = "") -> Answer:
    """An event stream of (output, offset), then raw text."""
    text = "".join(f"data: {json.dumps({'output': output, 'offset': offset})}\n\n" for output, offset in chunks)
    return Answer(body=(": keep-alive\n\n" + text + then).encode(), headers={"Content-Type": "text/event-stream"})


class Script:
    """The answers to give, by path where `routes` has one, else in order; and the requests in the order they came."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.routes: dict[str, deque[Answer]] = {}
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self.url = ""

    def on(self, path: str, *answers: Answer) -> None:
        """Answer requests for `path` with these, the last one for ever."""
        self.routes[path] = deque(answers)

    def take(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            queue = self.routes.get(asked.path.partition("?")[0])
            if queue is not None:
                return queue.popleft() if len(queue) > 1 else queue[0]
            return self.answers.popleft() if self.answers else problem(500, "internal", "the script is at its end")


@contextmanager
def serving() -> Iterator[Script]:
    """Serve a script on a free port."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            given = script.take(Asked(self.command, self.path, headers, body))
            if given.silent:
                self.close_connection = True
                return
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(given.body) + (1000 if given.breaks else 0)))
            self.end_headers()
            self.wfile.write(given.body)
            if given.breaks:
                self.close_connection = True

        do_GET = do_POST = _serve  # noqa: N815 - names of the base class

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - a name of the base class
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def devbox(status: str = "running", devbox_id: str = "dbx_1", **more: object) -> dict[str, object]:
    """A devbox as the server shows it."""
    return {
        "id": devbox_id,
        "status": status,
        "create_time_ms": 1_700_000_000_000,
        "metadata": {},
        "capabilities": [],
        "launch_parameters": {"resource_size_request": "SMALL"},
        "state_transitions": [],
        **more,
    }


def execution(status: str = "completed", **more: object) -> dict[str, object]:
    """An execution as the server shows it."""
    shown: dict[str, object] = {"devbox_id": "dbx_1", "execution_id": "exec_1", "status": status, "command": "true"}
    if status == "completed":
        shown |= {"exit_status": 0, "stdout": "", "stderr": "", "stdout_truncated": False, "stderr_truncated": False}
    return shown | more
