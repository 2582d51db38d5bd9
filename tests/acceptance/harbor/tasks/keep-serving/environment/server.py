"""Notes in memory: PUT /name stores the body, GET /name answers it."""

from __future__ import annotations

import http.server

NOTES: dict[str, bytes] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_PUT(self) -> None:
        NOTES[self.path] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        note = NOTES.get(self.path)
        self.send_response(404 if note is None else 200)
        self.end_headers()
        self.wfile.write(note or b"")


http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
