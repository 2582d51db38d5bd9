"""`ssh -L` to servers in the devbox, and to nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.harness.openssh import OpenSsh
from tests.harness.server import free_port


@contextlib.contextmanager
def forwarded(ssh: OpenSsh, *forwards: str) -> Iterator[subprocess.Popen[bytes]]:
    """An ssh that only forwards, once its connection stands."""
    options = [option for forward in forwards for option in ("-L", forward)]
    client = ssh.start("echo up; cat", *options)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        yield client
    finally:
        ssh.end(client)


def test_a_server_in_the_devbox_is_reached(shared: OpenSsh) -> None:
    inside, here = free_port(), free_port()
    data = os.urandom(2_000_000)
    shared.run("mkdir -p www && cat > www/data", stdin=data)
    with forwarded(shared, f"127.0.0.1:{here}:localhost:{inside}"):
        server = shared.start(f"cd www && exec python3 -u -m http.server {inside} --bind 127.0.0.1 2>&1")
        try:
            assert server.stdout is not None
            assert b"Serving" in server.stdout.readline()
            for _ in range(3):
                answer = httpx.get(f"http://127.0.0.1:{here}/data", timeout=20)
                assert answer.status_code == 200
                assert hashlib.sha256(answer.content).digest() == hashlib.sha256(data).digest()
        finally:
            shared.end(server)


def test_each_half_of_a_forwarded_connection_ends_by_itself(shared: OpenSsh) -> None:
    inside, here = free_port(), free_port()
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', PORT)); print('up', flush=True); c, _ = s.accept(); "
        "d = b''.join(iter(lambda: c.recv(65536), b'')); c.sendall(b'got %d' % len(d)); c.close()"
    ).replace("PORT", str(inside))
    server = shared.start(f'python3 -c "{program}"')
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    with forwarded(shared, f"127.0.0.1:{here}:127.0.0.1:{inside}"):
        with socket.create_connection(("127.0.0.1", here), 10) as client:
            client.sendall(bytes(1_000_000))
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer == b"got 1000000"
    assert server.wait(timeout=10) == 0
    shared.end(server)


@pytest.mark.parametrize("target", ["8.8.8.8:53", "169.254.169.254:80", "0.0.0.0:80", "example.org:80"])
def test_no_other_machine_is_reached(shared: OpenSsh, target: str) -> None:
    here = free_port()
    with forwarded(shared, f"127.0.0.1:{here}:{target}") as client:
        with socket.create_connection(("127.0.0.1", here), 10) as through:
            assert through.recv(1) == b""
        assert b"only ports of the devbox's own localhost" in shared.end(client)[1]


def test_a_port_on_which_nothing_listens_is_refused_and_the_connection_goes_on(shared: OpenSsh) -> None:
    here = free_port()
    with forwarded(shared, f"127.0.0.1:{here}:localhost:{free_port()}") as client:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", here), 10) as through:
                assert through.recv(1) == b""
        assert client.poll() is None


@pytest.mark.parametrize(
    "option",
    ["-R0:localhost:22", "-R/tmp/corral-test-socket:localhost:22", "-w0:0"],
    ids=["remote", "remote-socket", "tunnel-device"],
)
def test_nothing_is_opened_on_the_server_for_a_client(shared: OpenSsh, option: str) -> None:
    done = shared.run("true", option, "-o", "ExitOnForwardFailure=yes")
    assert done.returncode == 255, done
    assert not os.path.exists("/tmp/corral-test-socket")


def test_a_socket_of_the_server_is_not_reached(shared: OpenSsh) -> None:
    here = free_port()
    told = forwarded(shared, f"127.0.0.1:{here}:/run/systemd/private")
    with told, socket.create_connection(("127.0.0.1", here), 10) as through:
        assert through.recv(1) == b""


def test_agents_and_displays_are_not_forwarded(shared: OpenSsh) -> None:
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, check=True, timeout=10).stdout.decode()
    values = dict(part.split("=", 1) for part in agent.replace("\n", "").split(";") if "=" in part)
    try:
        line = [*shared.arguments("-A", "-X"), "echo agent=$SSH_AUTH_SOCK display=$DISPLAY"]
        environment = os.environ | {"SSH_AUTH_SOCK": values["SSH_AUTH_SOCK"], "DISPLAY": ":99"}
        done = subprocess.run(line, env=environment, capture_output=True, check=False, timeout=30)
        assert done.stdout == b"agent= display=\n", done
    finally:
        os.kill(int(values["SSH_AGENT_PID"]), 15)


def test_a_forward_that_is_not_read_holds_only_itself_back(shared: OpenSsh) -> None:
    inside, here = free_port(), free_port()
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', PORT)); print('up', flush=True); c, _ = s.accept(); "
        "[c.sendall(bytes(1 << 20)) for _ in range(64)]"
    ).replace("PORT", str(inside))
    server = shared.start(f'python3 -c "{program}"')
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    with (
        forwarded(shared, f"127.0.0.1:{here}:localhost:{inside}") as client,
        socket.create_connection(("127.0.0.1", here), 10) as idle,
    ):
        time.sleep(1)
        assert server.poll() is None  # it could not send all of it
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"still here\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"still here\n"
        left = 64 << 20
        while left:
            left -= len(idle.recv(1 << 20))
    assert server.wait(timeout=20) == 0
    shared.end(server)
