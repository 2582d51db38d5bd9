"""Clients of the SSH port that mean harm, and devboxes that they would reach through it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import asyncssh
import httpx
import pytest
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_IGNORE
from asyncssh.packet import String, UInt32

from tests.harness.openssh import OpenSsh, create_key
from tests.harness.server import Server, free_port

#: KiB by which one client may grow the server.
GROWTH: Final = 96 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"CORRAL_SSH_LISTEN": f"127.0.0.1:{free_port()}"}
    with Server(tmp_path_factory.mktemp("ssh") / "data", runtime="fake", env=env) as running:
        yield running


def devbox(server: Server, **body: Any) -> str:
    path = f"{server.url}/v1/devboxes/create_and_await_running"
    view = httpx.post(path, json=body, headers=server.headers, timeout=60).raise_for_status().json()
    assert view["status"] == "running", view
    return str(view["id"])


def memory(server: Server) -> int:
    """KiB of the server's process."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def private(server: Server, devbox_id: str) -> tuple[asyncssh.SSHKey, int]:
    view = create_key(server, devbox_id).raise_for_status().json()
    return asyncssh.import_private_key(view["ssh_private_key"]), view["ssh_port"]


@contextlib.asynccontextmanager
async def connected(server: Server, devbox_id: str, **more: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
    key, port = private(server, devbox_id)
    options: dict[str, Any] = {"username": "user", "client_keys": [key], "known_hosts": None, "config": None}
    async with asyncssh.connect("127.0.0.1", port, **(options | more)) as connection:
        yield connection


class Pretender(asyncssh.SSHKeyPair):
    """Shows one key and signs with another."""

    def __init__(self, shown: asyncssh.SSHKey, signing: asyncssh.SSHKey) -> None:
        algorithm = shown.algorithm
        super().__init__(algorithm, algorithm, [algorithm], [algorithm], shown.public_data, None)
        self._signing = signing

    def sign(self, data: bytes) -> bytes:
        return self._signing.sign(data, self.sig_algorithm)


async def test_showing_a_key_without_its_signature_opens_nothing(server: Server) -> None:
    mine, theirs = devbox(server), devbox(server)
    my_key, _ = private(server, mine)
    their_key, port = private(server, theirs)
    pretender = Pretender(their_key, my_key)
    options: dict[str, Any] = {"username": "user", "known_hosts": None, "config": None, "agent_path": None}
    with pytest.raises(asyncssh.PermissionDenied):
        async with asyncssh.connect("127.0.0.1", port, client_keys=[pretender], **options):
            pass
    # Their key is shown and found first; what is opened is the devbox of the key that signs.
    async with asyncssh.connect("127.0.0.1", port, client_keys=[pretender, my_key], **options) as connection:
        done = await connection.run("pwd", check=True)
    expected = httpx.post(
        f"{server.url}/v1/devboxes/{mine}/execute", json={"command": "pwd"}, headers=server.headers, timeout=20
    )
    assert done.stdout == expected.json()["stdout"]


async def test_a_key_may_be_tried_a_few_times_only(server: Server) -> None:
    _, port = private(server, devbox(server))
    wrong = [asyncssh.generate_private_key("ecdsa-sha2-nistp256") for _ in range(40)]
    started = time.monotonic()
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)) as refused:
        async with asyncssh.connect(
            "127.0.0.1", port, username="user", client_keys=wrong, known_hosts=None, config=None
        ):
            pass
    assert isinstance(refused.value, asyncssh.ConnectionLost), "all 40 keys could be tried"
    assert time.monotonic() - started < 10


async def test_sessions_and_forwards_of_a_connection_are_bounded(server: Server) -> None:
    async with connected(server, devbox(server)) as connection:
        opened = [await connection.create_process("sleep 60") for _ in range(16)]
        with pytest.raises(asyncssh.ChannelOpenError, match="16 are open"):
            await connection.create_process("sleep 60")
        opened[0].close()
        await opened[0].wait_closed()
        async with asyncio.timeout(10):
            while (again := await _try(connection)) is None:
                await asyncio.sleep(0.05)
        assert again == "again\n"


async def _try(connection: asyncssh.SSHClientConnection) -> str | None:
    try:
        return str((await connection.run("echo again", check=True)).stdout)
    except asyncssh.ChannelOpenError:
        return None


async def test_variables_cannot_fill_the_server(server: Server) -> None:
    before = memory(server)
    async with connected(server, devbox(server)) as connection:
        for size, count in ((200_000, 500), (4000, 20_000)):
            env = {f"V{number}": "x" * size for number in range(count)}
            done = await connection.run("echo up", env=env, check=True)
            assert done.stdout == "up\n"
    assert memory(server) - before < GROWTH


async def test_a_client_that_reads_nothing_of_a_great_window_costs_a_bounded_room(server: Server) -> None:
    before = memory(server)
    async with connected(server, devbox(server)) as connection:
        process = await connection.create_process("head -c 1000000000 /dev/zero", window=(1 << 32) - 1, encoding=None)
        transport: asyncio.Transport = connection._transport  # type: ignore[assignment]
        transport.pause_reading()
        await asyncio.sleep(3)
        assert memory(server) - before < GROWTH
        process.close()
        transport.abort()


@pytest.mark.slow
async def test_a_client_that_floods_and_does_not_read_is_dropped(server: Server) -> None:
    before = memory(server)
    async with connected(server, devbox(server)) as connection:
        transport: asyncio.Transport = connection._transport  # type: ignore[assignment]
        transport.pause_reading()
        with contextlib.suppress(ConnectionError, asyncssh.Error, OSError):
            for number in range(200_000):
                # The refusal of each is a sentence.
                host, origin = String("192.0.2.1"), String("")
                rest = (UInt32(number), UInt32(1 << 20), UInt32(32768), host, UInt32(80), origin, UInt32(0))
                connection.send_packet(MSG_CHANNEL_OPEN, String("direct-tcpip"), *rest)
                if not number % 1000:
                    await asyncio.sleep(0)
                if transport.is_closing():
                    break
            async with asyncio.timeout(40):
                while not transport.is_closing():  # which is seen by writing, since nothing is read
                    connection.send_packet(MSG_IGNORE, String("x"))
                    await asyncio.sleep(0.1)
        assert transport.is_closing()
        assert memory(server) - before < GROWTH
        transport.abort()
    async with connected(server, devbox(server)) as connection:
        assert (await connection.run("echo up", check=True)).stdout == "up\n"


@pytest.mark.root
@pytest.mark.image
def test_ssh_leads_from_no_box_to_the_host_or_another_box(tmp_path: Path) -> None:
    port = free_port()
    with Server(tmp_path / "data", runtime="oci", env={"CORRAL_SSH_LISTEN": f"0.0.0.0:{port}"}) as server:
        ssh = OpenSsh.into(server, devbox(server), tmp_path / "ssh")
        other = OpenSsh.into(server, devbox(server), tmp_path / "other")
        with socket.create_server(("127.0.0.1", 0)) as host:
            _forward_is_refused(ssh, host.getsockname()[1])
        listening = other.start("exec python3 -u -m http.server 8099 --bind 0.0.0.0 2>&1")
        assert listening.stdout is not None
        assert b"Serving" in listening.stdout.readline()
        _forward_is_refused(ssh, 8099)
        OpenSsh.end(listening)
        # From inside: the port is the host's, and the host's ports are closed to boxes.
        gateway = ssh.run("ip route | awk '/default/ { print $3 }'").stdout.decode().strip()
        done = ssh.run(f"timeout 3 bash -c 'exec 3<>/dev/tcp/{gateway}/{port}' && echo reached")
        assert b"reached" not in done.stdout


def _forward_is_refused(ssh: OpenSsh, port: int) -> None:
    here = free_port()
    client = ssh.start("echo up; cat", "-L", f"127.0.0.1:{here}:localhost:{port}")
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        with socket.create_connection(("127.0.0.1", here), 10) as through:
            assert through.recv(1) == b""
    finally:
        OpenSsh.end(client)
