"""Bytes to and from a guest, without the client between."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from tests.integration.guest.box import Box


def connect(box: Box, timeout_s: float = 5) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    sock.connect(str(box.path))
    return sock


def frame(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BI", kind, len(payload) if length is None else length) + payload


def request(**body: object) -> bytes:
    return frame(1, json.dumps(body).encode())


def send(sock: socket.socket, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send, and close that direction."""
    try:
        if fds:
            data = data[socket.send_fds(sock, [data], list(fds)) :]
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it had closed already, which is an answer


def answer_of(sock: socket.socket) -> bytes:
    """Take what comes until the guest closes."""
    answer = b""
    try:
        while more := sock.recv(65536):
            answer += more
    except ConnectionResetError:
        pass
    return answer


def exchange(box: Box, data: bytes, fds: tuple[int, ...] = (), timeout_s: float = 5) -> bytes:
    """Send, and return what comes until the guest closes."""
    with connect(box, timeout_s) as sock:
        send(sock, data, fds)
        return answer_of(sock)


def frames_of(answer: bytes) -> list[tuple[int, Any]]:
    """The frames of an answer; JSON where they have it."""
    found: list[tuple[int, Any]] = []
    while answer:
        kind, length = struct.unpack("<BI", answer[:5])
        payload, answer = answer[5 : 5 + length], answer[5 + length :]
        assert len(payload) == length
        found.append((kind, json.loads(payload) if kind in {2, 3, 4} else payload))
    return found


def error_of(answer: bytes) -> str:
    [(kind, body)] = frames_of(answer)
    assert kind == 3
    text: str = body["kind"]
    return text
