"""The SSH port: plain SSH and SSH inside TLS on one address, told apart by the first byte.

Owns accepting, the bounds on clients that have not shown a key, and the end of connections: of idle ones, of those
whose devbox has ended, and of all when the server stops. Must not look into what a connection carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from typing import Final

import asyncssh

from corral.core import errors, events, log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.reconcile import rounds
from corral.core.tasks import TaskOwner
from corral.devboxes.executions import Executions
from corral.devboxes.ports import Ports
from corral.devboxes.ssh.connection import Connection, Door, House
from corral.devboxes.ssh.identity import HostIdentity
from corral.devboxes.ssh.keys import SshKeys

#: Clients that have not shown a key yet: in all, and of one address. Further ones are closed at once.
STRANGERS: Final = 128
STRANGERS_EACH: Final = 32

#: Connections that have, in all and into one devbox.
CONNECTIONS: Final = 1024
EACH_DEVBOX: Final = 64

#: A client that waits for the server to speak first is one of plain SSH after these seconds.
SILENCE_S: Final = 1.0

#: Of TLS: what a ClientHello begins with. SSH begins with `SSH-`.
HANDSHAKE: Final = b"\x16"

#: Seconds between two looks at idle connections, at most, and between two tries to accept without descriptors.
LOOK_S: Final = 15.0
_PAUSE_S: Final = 0.1

#: A client that does not answer so many questions in a row, so many seconds apart, is gone.
ALIVE_S: Final = 30
ALIVE_COUNT: Final = 4

#: No method whose arithmetic a stranger could make the server do for long, and no compression, which can be a bomb.
_KEX: Final = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384")
_CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
_MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256")
_SIGNATURES: Final = ("ecdsa-sha2-nistp256",)

_ENDS: Final = frozenset({"devbox.shutdown", "devbox.failure"})


class SshListener:
    """Listens on one address. `start`, then `stop`; `wait` ends only when accepting fails for good."""

    def __init__(
        self,
        address: tuple[str, int],
        identity: HostIdentity,
        keys: SshKeys,
        executions: Executions,
        ports: Ports,
        feed: events.Feed,
        *,
        clock: Clock,
        ids: Ids,
        idle_s: float,
        login_s: float,
    ) -> None:
        self._address = address
        self._identity = identity
        self._clock = clock
        self._idle_s = idle_s
        self._login_s = login_s
        self._log = log.get("devboxes.ssh")
        self._tasks = TaskOwner("devboxes.ssh")
        self._house = House(keys, executions, ports, clock, ids, self._tasks)
        self._options = self._make_options()
        self._strangers: Counter[str] = Counter()
        self._admitted: dict[str, set[Connection]] = {}
        self._socket: socket.socket | None = None
        feed.listen(self._heard)

    async def start(self) -> None:
        """Bind and accept. Raises errors.Unavailable when the address cannot be had."""
        host, port = self._address
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family, backlog=STRANGERS)
        except OSError as error:
            # A text of the socket module's own would name the address once more.
            cause = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise errors.Unavailable(
                f"cannot listen for SSH on {host}:{port}: {cause}",
                remedy="set CORRAL_SSH_LISTEN to a free one",
            ) from error
        self._socket.setblocking(False)
        self._tasks.spawn(self._accept(self._socket), name="accept ssh")
        look_s = min(LOOK_S, self._idle_s / 4)
        looks = rounds(self._end_old, every_s=look_s, clock=self._clock, part="devboxes.ssh")
        self._tasks.spawn(looks, name="end idle ssh")

    async def stop(self) -> None:
        """Close the port and every connection; commands go on, as they do when any client of them leaves."""
        await self._tasks.close()
        if self._socket is not None:
            self._socket.close()

    # -- clients come

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(listening)
            except OSError as error:
                self._log.warning("client not accepted", error=str(error))
                await self._clock.sleep(_PAUSE_S)
                continue
            address = str(peer[0])
            if self._strangers.total() >= STRANGERS or self._strangers[address] >= STRANGERS_EACH:
                sock.close()
                continue
            self._strangers[address] += 1
            self._tasks.spawn(self._serve(sock, address), name=f"ssh client {address}")

    async def _serve(self, sock: socket.socket, address: str) -> None:
        """One client, from its first byte to its end."""
        sock.setblocking(False)
        connection: Connection | None = None
        try:
            try:
                connection = await self._greet(sock, address)
            finally:
                self._strangers[address] -= 1
                if not self._strangers[address]:
                    del self._strangers[address]
            if connection is not None and await self._take_in(connection):
                await connection.ended.wait()
        finally:
            if connection is not None:
                self._let_out(connection)
                connection.abort()
            sock.close()

    async def _greet(self, sock: socket.socket, address: str) -> Connection | None:
        """The client's connection once it has shown a key; None when it has not in time."""
        connection = Connection(self._house, self._options, address)
        try:
            async with asyncio.timeout(self._login_s):
                first = await _first_byte(sock)
                tls = self._identity.tls if first == HANDSHAKE else None
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock, ssl=tls)
                ends = [asyncio.ensure_future(event.wait()) for event in (connection.admitted, connection.ended)]
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
        except (TimeoutError, OSError) as error:  # ssl.SSLError is an OSError
            self._log.debug("client refused", peer=address, error=str(error))
            connection.abort()
            return None
        except BaseException:
            connection.abort()
            raise
        if connection.admitted.is_set():
            return connection
        self._log.info("client refused", peer=address)
        return None

    # -- clients are in

    async def _take_in(self, connection: Connection) -> bool:
        """Count a connection; False, and the end of it, when there are too many, or its devbox has ended meanwhile."""
        admission = connection.admission
        if admission is None:
            return False
        inside = self._admitted.setdefault(admission.devbox_id, set())
        if len(inside) >= EACH_DEVBOX or sum(map(len, self._admitted.values())) >= CONNECTIONS:
            self._end(connection, "too many connections")
            return False
        inside.add(connection)
        if not await self._house.keys.holds(admission):  # it ended before there was anybody to be told
            self._end(connection, "the devbox has ended")
            return False
        return True

    def _let_out(self, connection: Connection) -> None:
        admission = connection.admission
        if admission is None or (inside := self._admitted.get(admission.devbox_id)) is None:
            return
        inside.discard(connection)
        if not inside:
            del self._admitted[admission.devbox_id]

    def _end(self, connection: Connection, reason: str) -> None:
        admission = connection.admission
        devbox_id = admission.devbox_id if admission is not None else None
        self._log.info("client ended", devbox=devbox_id, peer=connection.peer, reason=reason)
        connection.disconnect(asyncssh.DISC_BY_APPLICATION, f"corral: {reason}")

    def _heard(self, event: events.Event) -> None:
        if event.kind in _ENDS:
            for connection in list(self._admitted.get(event.subject, ())):
                self._end(connection, "the devbox has ended")

    async def _end_old(self) -> None:
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        for connection in [one for inside in self._admitted.values() for one in inside]:
            expires_at_ms = connection.admission.expires_at_ms if connection.admission is not None else None
            if now - connection.active_s >= self._idle_s:
                self._end(connection, f"nothing was sent for {self._idle_s:g} s")
            elif expires_at_ms is not None and expires_at_ms <= now_ms:
                self._end(connection, "the key has expired")

    def _make_options(self) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: Door(self._house),
            server_version="Corral",
            server_host_keys=[self._identity.key],
            kex_algs=_KEX,
            encryption_algs=_CIPHERS,
            mac_algs=_MACS,
            compression_algs=("none",),
            signature_algs=_SIGNATURES,
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            gss_kex=False,
            gss_auth=False,
            agent_forwarding=False,
            x11_forwarding=False,
            login_timeout=self._login_s,
            keepalive_interval=ALIVE_S,
            keepalive_count_max=ALIVE_COUNT,
            encoding=None,
            line_editor=False,
        )


async def _first_byte(sock: socket.socket) -> bytes:
    """The first byte, which stays in the socket; b"" when the client is silent or gone."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())
    with contextlib.suppress(BlockingIOError):
        return sock.recv(1, socket.MSG_PEEK)
    return b""
