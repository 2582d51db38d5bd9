"""Who gets in: keys, ended devboxes, accounts, restarts, idle clients, TLS."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sqlite3
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.ssh.conftest import RUNTIMES, new_devbox
from tests.harness.cli import Cli
from tests.harness.openssh import OpenSsh, create_key
from tests.harness.server import Server, ServerFailed, free_port


@contextlib.contextmanager
def other_server(folder: Path, runtime: str = "fake", **env: str) -> Iterator[Server]:
    with Server(folder / "other", runtime=runtime, env=env) as running:
        yield running


def test_without_the_setting_there_is_no_ssh(tmp_path: Path) -> None:
    with other_server(tmp_path) as server:
        answer = create_key(server, new_devbox(server))
        assert answer.status_code == 501
        assert "CORRAL_SSH_LISTEN" in answer.json()["message"]
        assert not (server.data / "ssh-host-key").exists()


def test_a_port_that_is_taken_is_told_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(tmp_path / "data", env={"CORRAL_SSH_LISTEN": f"127.0.0.1:{port}"})
        with pytest.raises(ServerFailed, match="Address already in use; set CORRAL_SSH_LISTEN to a free one"):
            server.start()


def test_the_dialects_answer_has_its_four_fields(server: Server, box: str) -> None:
    view = create_key(server, box).raise_for_status().json()
    assert view["id"] == box
    assert view["url"] == f"{box.replace('_', '-').lower()}.ssh.localhost"
    assert view["ssh_user"] == "user"
    assert view["ssh_private_key"].startswith("-----BEGIN PRIVATE KEY-----\n")


def test_ssh_inside_tls_works_as_the_dialects_clients_do_it(shared: OpenSsh) -> None:
    done = shared.through_tls("echo in; echo err >&2; exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (9, b"in\n", b"err\n")


def test_a_certificate_of_the_operator_is_shown(tmp_path: Path) -> None:
    pem = tmp_path / "given.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(tmp_path / "k"), "-out", str(tmp_path / "c"), "-days", "2", "-subj", "/CN=given"]
    made += ["-addext", "subjectAltName=DNS:*.ssh.example.org"]
    subprocess.run(made, check=True, capture_output=True, timeout=30)
    pem.write_text((tmp_path / "c").read_text() + (tmp_path / "k").read_text())
    port = free_port()
    with other_server(tmp_path, CORRAL_SSH_LISTEN=f"127.0.0.1:{port}", CORRAL_SSH_CERTIFICATE=str(pem)):
        context = ssl.create_default_context(cafile=str(tmp_path / "c"))
        plain = socket.create_connection(("127.0.0.1", port), 10)
        with plain, context.wrap_socket(plain, server_hostname="x.ssh.example.org") as inside:
            assert inside.recv(64).startswith(b"SSH-2.0-Corral")


def test_a_key_that_the_server_did_not_make_is_refused(server: Server, box: str, tmp_path: Path) -> None:
    view = create_key(server, box).raise_for_status().json()
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", str(tmp_path / "own")]
    subprocess.run(command, check=True, timeout=10)
    done = OpenSsh(server, view | {"ssh_private_key": (tmp_path / "own").read_text()}, tmp_path / "ssh").run("id")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied (publickey)" in done.stderr


def test_neither_passwords_nor_other_users_get_in(server: Server, box: str, tmp_path: Path) -> None:
    ssh = OpenSsh.into(server, box, tmp_path / "ssh")
    password = ssh.run("id", "-o", "PreferredAuthentications=password,keyboard-interactive,none")
    assert b"Permission denied (publickey)" in password.stderr
    for user in ("root", "", "daemon", "dbx_000000000000000000000"):
        done = ssh.run("id", "-o", f"User={user}", "-l", user or "-")
        assert done.returncode == 255, user
    assert ssh.run("echo in", "-l", box).stdout == b"in\n"


def test_a_key_opens_its_own_devbox_whatever_the_client_names(server: Server, box: str, tmp_path: Path) -> None:
    other = new_devbox(server)
    for where in (box, other):
        httpx.post(
            f"{server.url}/v1/devboxes/{where}/write_file_contents",
            json={"file_path": "whose", "contents": where},
            headers=server.headers,
        ).raise_for_status()
    mine = create_key(server, box).raise_for_status().json()
    yours = create_key(server, other).raise_for_status().json()
    # The user's name and the name that TLS is told are the other one's: the key decides, or nothing is opened.
    ssh = OpenSsh(server, mine, tmp_path / "mine")
    assert ssh.run("cat whose").stdout.decode() == box
    assert ssh.run("cat whose", "-l", other).returncode == 255
    crossed = OpenSsh(server, mine | {"url": yours["url"]}, tmp_path / "crossed")
    assert crossed.through_tls("cat whose").stdout.decode() == box


def test_a_key_ends_with_its_devbox_and_so_do_its_connections(server: Server, box: str, tmp_path: Path) -> None:
    ssh = OpenSsh.into(server, box, tmp_path / "ssh")
    open_client = ssh.start("echo up; sleep 60")
    assert open_client.stdout is not None
    assert open_client.stdout.readline() == b"up\n"
    httpx.post(f"{server.url}/v1/devboxes/{box}/shutdown", json={}, headers=server.headers).raise_for_status()
    assert open_client.wait(timeout=15) == 255
    ssh.end(open_client)
    done = ssh.run("id")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied" in done.stderr
    assert create_key(server, box).status_code == 400
    with sqlite3.connect(server.data / "corral.db") as database:
        rows = database.execute("SELECT count(*) FROM ssh_keys WHERE devbox_id = ?", (box,)).fetchone()
    database.close()
    assert rows == (0,)


def test_a_devbox_of_another_account_has_no_keys_for_this_one(server: Server, box: str) -> None:
    key = "ak_" + "z" * 40
    with sqlite3.connect(server.data / "corral.db") as database:
        database.execute("INSERT OR IGNORE INTO accounts VALUES ('acc_other', 'other', 1)")
        row = ("key_other", "acc_other", "", hashlib.sha256(key.encode()).digest(), 1)
        database.execute(
            "INSERT OR IGNORE INTO api_keys (id, account_id, name, digest, created_at_ms) VALUES (?, ?, ?, ?, ?)", row
        )
    database.close()
    assert create_key(server, box, {"Authorization": f"Bearer {key}"}).status_code == 404
    assert create_key(server, "dbx_" + "0" * 21).status_code == 404


@pytest.mark.parametrize("server", RUNTIMES[:1], indirect=True)
def test_of_many_keys_the_oldest_ends(server: Server, box: str, tmp_path: Path) -> None:
    first = OpenSsh.into(server, box, tmp_path / "first")
    second = OpenSsh.into(server, box, tmp_path / "second")
    for _ in range(63):
        create_key(server, box).raise_for_status()
    assert first.run("true").returncode == 255
    assert second.run("true").returncode == 0


@pytest.mark.parametrize("server", RUNTIMES[:1], indirect=True)
def test_a_key_ends_with_the_api_key_that_made_it(server: Server, box: str, tmp_path: Path) -> None:
    ends = int(time.time() * 1000) + 4000
    path = f"{server.url}/v1/apikeys"
    made = httpx.post(path, json={"name": "short", "expires_at_ms": ends}, headers=server.headers)
    secret = made.raise_for_status().json()["key_secret"]
    view = create_key(server, box, {"Authorization": f"Bearer {secret}"}).raise_for_status().json()
    ssh = OpenSsh(server, view, tmp_path / "ssh")
    assert ssh.run("true").returncode == 0
    time.sleep(max(0.0, ends / 1000 - time.time()) + 0.1)
    assert ssh.run("true").returncode == 255


@pytest.mark.root
@pytest.mark.image
def test_keys_and_the_host_key_outlive_the_server(tmp_path: Path) -> None:
    with other_server(tmp_path, "oci", CORRAL_SSH_LISTEN=f"127.0.0.1:{free_port()}") as server:
        box = new_devbox(server)
        ssh = OpenSsh.into(server, box, tmp_path / "ssh")
        assert ssh.run("true").returncode == 0
        for name in ("ssh-host-key", "ssh-tls.pem"):
            assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600
        shown = (server.data / "ssh-host-key").read_bytes()
        assert server.stop() == 0
        server.start()
        assert (server.data / "ssh-host-key").read_bytes() == shown
        assert ssh.run("echo again").stdout == b"again\n"
        with sqlite3.connect(server.data / "corral.db") as database:
            assert database.execute("SELECT count(*) FROM ssh_keys").fetchone() == (1,)
            (kept,) = database.execute("SELECT public_key FROM ssh_keys").fetchone()
        database.close()
        assert kept[4:].startswith(b"ecdsa-sha2-nistp256")
        private = ssh.view["ssh_private_key"].split("\n")[1]
        found = subprocess.run(
            ["grep", "-rlF", private, str(server.data)], capture_output=True, check=False, timeout=30
        )
        assert found.stdout == b""
        assert private not in server.log_tail(10_000_000)


@pytest.mark.parametrize("server", RUNTIMES[1:], indirect=True)
def test_commands_go_on_when_the_server_stops(shared: OpenSsh, server: Server) -> None:
    client = shared.start("echo up; sleep 3; echo late; echo done > after-restart")
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    server.restart()
    assert client.wait(timeout=20) == 255
    shared.end(client)
    deadline = time.monotonic() + 15
    while shared.run("cat after-restart && rm after-restart").stdout != b"done\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_idle_clients_and_silent_strangers_are_closed_in_time_and_busy_ones_are_not(tmp_path: Path) -> None:
    port = free_port()
    limits = {"CORRAL_SSH_IDLE_S": "2", "CORRAL_SSH_LOGIN_S": "5"}
    with (
        other_server(tmp_path, CORRAL_SSH_LISTEN=f"127.0.0.1:{port}", **limits) as server,
        socket.create_connection(("127.0.0.1", port), 10) as silent,
    ):
        ssh = OpenSsh.into(server, new_devbox(server), tmp_path / "ssh")
        began = time.monotonic()
        idle = ssh.run("sleep 30")
        assert idle.returncode == 255
        assert "nothing was sent for 2 s" in server.log_tail()
        assert time.monotonic() - began < 8
        assert ssh.run("for i in 1 2 3 4 5; do sleep 1; echo $i; done").returncode == 0
        silent.settimeout(1)
        assert silent.recv(64).startswith(b"SSH-2.0-Corral")
        while silent.recv(65536):
            pass


@pytest.mark.parametrize("server", RUNTIMES[:1], indirect=True)
def test_strangers_are_bounded_and_do_not_keep_others_out(server: Server, shared: OpenSsh) -> None:
    before = len(os.listdir(f"/proc/{server.pid}/fd"))
    silent = [socket.create_connection(("127.0.0.1", shared.port), 5) for _ in range(60)]
    try:
        time.sleep(0.5)
        assert len(os.listdir(f"/proc/{server.pid}/fd")) - before <= 34
    finally:
        for one in silent:
            one.close()
    deadline = time.monotonic() + 10
    while shared.run("true").returncode != 0:
        assert time.monotonic() < deadline, "strangers that have gone keep others out"
    for nonsense in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        bytes(200_000),
        b"SSH-2.0-x\r\n" + bytes(70_000),
    ):
        with socket.create_connection(("127.0.0.1", shared.port), 5) as client, contextlib.suppress(ConnectionError):
            client.sendall(nonsense)
            while client.recv(65536):
                pass
    while len(os.listdir(f"/proc/{server.pid}/fd")) > before:
        assert time.monotonic() < deadline, "descriptors of strangers are left"
        time.sleep(0.1)
    assert shared.run("true").returncode == 0
    assert "Traceback" not in server.log_tail(1_000_000)


def test_corral_devbox_ssh_runs_commands_by_name_and_leaves_no_key(server: Server, tmp_path: Path) -> None:
    cli = Cli(server, tmp_path)
    cli.env["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    cli.out("devbox", "create", "--name", "by-name")
    done = cli.run("devbox", "ssh", "by-name", "--", "cat; echo err >&2; exit 3", stdin=b"typed")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"typed", b"err\n")
    assert cli.run("devbox", "ssh", "by-name", "--tls", "--", "exit", "5").returncode == 5
    assert list((tmp_path / "tmp").iterdir()) == []
    missing = cli.run("devbox", "ssh", "no-such-devbox", "--", "true")
    assert missing.returncode != 0
    assert b"no-such-devbox" in missing.stderr


def test_corral_devbox_ssh_config_is_all_that_ssh_needs(server: Server, tmp_path: Path) -> None:
    cli = Cli(server, tmp_path)
    cli.out("devbox", "create", "--name", "configured")
    config = tmp_path / "config"
    config.write_text(cli.out("devbox", "ssh-config", "configured", "--folder", str(tmp_path / "a folder")))
    line = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "configured", "echo in; exit 2"]
    done = subprocess.run(line, capture_output=True, check=False, timeout=30, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, b"in\n"), done
    key = tmp_path / "a folder" / "configured" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
