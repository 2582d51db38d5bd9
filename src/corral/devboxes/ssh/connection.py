"""One client's connection: who it is, what it may open, and how much of the server it may use.

Owns authentication and refusals. A connection is bound to the devbox of the key whose signature was checked; nothing
that a client sends names another. Must not copy a byte of a command: `commands` and `forwards` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, cast

import asyncssh

from corral.core import errors, log
from corral.core.clock import Clock
from corral.core.ids import Ids
from corral.core.tasks import TaskOwner
from corral.devboxes.executions import Executions
from corral.devboxes.ports import Ports
from corral.devboxes.ssh import commands, forwards
from corral.devboxes.ssh.keys import Admission, SshKeys
from corral.runtime.contract import RuntimeFailure

#: Keys and user names that one client may try.
TRIES: Final = 16

#: Of one connection at the same time.
COMMANDS: Final = 16
FORWARDS: Final = 128

#: Bytes that wait for a client which does not read: no more is taken from boxes over the first figure, and the client
#: is dropped over the second, which only a flood of requests leads to.
SLOW: Final = 1024 * 1024
FLOODED: Final = 4 * 1024 * 1024

#: What is asked for by name is the devbox itself or the host that it sees itself as.
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_PORTS: Final = range(1, 65536)


@dataclass(frozen=True, slots=True)
class House:
    """What connections use of the server."""

    keys: SshKeys
    executions: Executions
    ports: Ports
    clock: Clock
    ids: Ids
    tasks: TaskOwner


class Connection(asyncssh.SSHServerConnection):
    """The protocol of one client. `admission` is there once it has proved that it holds a key."""

    door: Door

    def __init__(self, house: House, options: asyncssh.SSHServerConnectionOptions, peer: str) -> None:
        super().__init__(asyncio.get_running_loop(), options)
        self.house = house
        self.peer = peer
        self.admission: Admission | None = None
        self.admitted = asyncio.Event()
        self.ended = asyncio.Event()
        self.active_s = house.clock.monotonic()
        self._wire: asyncio.Transport | None = None
        self._takes = asyncio.Event()
        self._takes.set()

    # -- the wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        self._wire.set_write_buffer_limits(high=SLOW)
        super().connection_made(transport)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        if self._wire is not None and self._wire.get_write_buffer_size() > FLOODED:
            self.abort()
            return
        super().data_received(data, datatype)

    def pause_writing(self) -> None:
        self._takes.clear()

    def resume_writing(self) -> None:
        self._takes.set()

    async def takes(self) -> None:
        """Return when the client reads what it is sent, or is gone."""
        while not self._takes.is_set():  # of many that wait for this, the first ones may use all of the room up
            await self._takes.wait()

    def touch(self) -> None:
        """Something was moved for the client: it is not idle."""
        self.active_s = self.house.clock.monotonic()

    def gone(self) -> None:
        """The connection has been lost."""
        self._takes.set()
        self.ended.set()

    # -- who it is

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Bind the connection to the devbox of the key whose signature holds; a mere question binds nothing."""
        if not await super().validate_public_key(username, key_data, msg, signature):
            return False
        admission = self.door.found.get(key_data)
        if admission is None:
            return False
        if msg:
            self.admission = admission
        return True


class Door(asyncssh.SSHServer):
    """What a client may do. Everything that is not here is refused: other ways in, listeners, sockets, devices."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._log = log.get("devboxes.ssh")
        self._connection: Connection
        self._tries = 0
        self._commands = 0
        self._forwards = 0
        #: What the keys that this client has shown would open, by the key.
        self.found: dict[bytes, Admission] = {}

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = cast("Connection", conn)
        self._connection.door = self

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.gone()

    # -- authentication

    def begin_auth(self, username: str) -> bool:
        self._count_try()
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether the key opens a devbox for this user: the devbox's own, or the devbox's id."""
        self._count_try()
        try:
            admission = await self._house.keys.admit(key.public_data)
        except errors.CorralError as problem:
            self._log.warning("key not looked up", error=problem.message)
            return False
        if admission is None or username not in {admission.user, admission.devbox_id}:
            return False
        self.found[key.public_data] = admission
        return True

    def auth_completed(self) -> None:
        admission = self._connection.admission
        if admission is None:
            # It cannot be: success follows a signature. If it were, nothing would be open to it.
            self._connection.abort()
            return
        self._log.info(
            "client entered", devbox=admission.devbox_id, ssh_key=admission.key_id, peer=self._connection.peer
        )
        self._connection.touch()
        self._connection.admitted.set()

    def _count_try(self) -> None:
        self._tries += 1
        if self._tries > TRIES:
            self._connection.abort()

    # -- what is opened

    def session_requested(self) -> Any:
        admission = self._admission()
        if self._commands >= COMMANDS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"cannot open session: {COMMANDS} are open on this connection"
            )
        self._commands += 1
        channel = commands.Channel.of(self._connection)
        return channel, commands.Command(
            self._connection,
            self._house.executions,
            self._house.tasks,
            self._house.ids,
            admission,
            self._command_ended,
        )

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        admission = self._admission()
        if dest_host not in _LOOPBACK or dest_port not in _PORTS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
                "cannot forward: only ports of the devbox's own localhost can be reached",
            )
        if self._forwards >= FORWARDS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"cannot forward: {FORWARDS} are open on this connection"
            )
        return self._forward(admission, dest_port)

    async def _forward(self, admission: Admission, port: int) -> asyncssh.SSHTCPSession[bytes]:
        self._forwards += 1
        try:
            stream = await self._house.ports.connect(admission.account_id, admission.devbox_id, port)
        except (errors.CorralError, RuntimeFailure) as problem:
            self._forwards -= 1
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, problem.message) from problem
        except BaseException:
            self._forwards -= 1
            raise
        return forwards.Forward(self._connection, self._house.tasks, stream, self._forward_ended)

    def _admission(self) -> Admission:
        if self._connection.admission is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "cannot open: no key was shown")
        return self._connection.admission

    def _command_ended(self) -> None:
        self._commands -= 1

    def _forward_ended(self) -> None:
        self._forwards -= 1
