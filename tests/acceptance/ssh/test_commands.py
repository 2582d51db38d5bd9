"""Commands by OpenSSH's client: exit codes, streams, terminals, and their record."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pexpect

from tests.harness.openssh import OpenSsh
from tests.harness.server import Server

TEN_MB = 10_000_000


def executions(server: Server, ssh: OpenSsh) -> list[dict[str, object]]:
    path = f"{server.url}/v1/devboxes/{ssh.view['id']}/executions"
    found = httpx.get(path, headers=server.headers, timeout=20).raise_for_status().json()
    listed: list[dict[str, object]] = found["executions"]
    return listed


def until_gone(ssh: OpenSsh, pattern: str) -> None:
    """Wait until no process of the devbox has this in its command line."""
    deadline = time.monotonic() + 15
    while ssh.run(f"pgrep -f '[{pattern[0]}]{pattern[1:]}'").returncode == 0:
        assert time.monotonic() < deadline, f"{pattern} still runs"
        time.sleep(0.1)


def test_a_command_keeps_its_streams_apart_and_its_exit_code(shared: OpenSsh) -> None:
    done = shared.run("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert shared.run("true").returncode == 0
    assert shared.run("kill -9 $$").returncode == 137
    assert shared.run("no-such-program").returncode == 127


def test_ten_megabytes_come_back_byte_for_byte(shared: OpenSsh) -> None:
    data = os.urandom(TEN_MB)
    done = shared.run("cat", stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_more_than_the_record_keeps_comes_through(shared: OpenSsh) -> None:
    size = 80 * 1024 * 1024
    done = shared.run(f"head -c {size} /dev/zero; echo end >&2")
    assert (done.returncode, len(done.stdout), done.stdout.count(0), done.stderr) == (0, size, size, b"end\n")


def test_a_client_that_does_not_read_holds_its_command_back(server: Server, shared: OpenSsh) -> None:
    slow = shared.start("head -c 300000000 /dev/zero; echo over > held; exit 5")
    assert slow.stdout is not None
    slow.stdout.read(1)
    time.sleep(2)
    grown = (server_memory(server), shared.run("test -e held").returncode)
    assert grown[1] == 1, "the command went on though nobody read"
    count = 1
    while data := slow.stdout.read(1 << 20):
        count += len(data)
    assert (count, slow.wait(timeout=30)) == (300_000_000, 5)
    assert server_memory(server) - grown[0] < 64 * 1024
    shared.end(slow)
    shared.run("rm held")


def server_memory(server: Server) -> int:
    """KiB of the server's process."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def test_a_command_that_reads_late_gets_all_input(shared: OpenSsh) -> None:
    data = os.urandom(5_000_000)
    done = shared.run("sleep 2; wc -c", stdin=data)
    assert (done.returncode, done.stdout.split()) == (0, [b"5000000"])


def test_input_that_nobody_takes_is_no_failure(shared: OpenSsh) -> None:
    done = shared.run("exec 0<&-; sleep 0.5; echo done; exit 3", stdin=bytes(5_000_000))
    assert (done.returncode, done.stdout) == (3, b"done\n")


def test_a_shell_reads_its_commands_from_a_pipe(shared: OpenSsh) -> None:
    done = shared.run("", "-T", stdin=b"cd /tmp\npwd\nexit 4\n")
    assert (done.returncode, done.stdout) == (4, b"/tmp\n")


def test_a_terminal_has_the_clients_size_and_kind_and_follows_it(shared: OpenSsh) -> None:
    terminal = shared.terminal(rows=33, cols=101)
    terminal.sendline(b"stty size; echo kind-$TERM; tty")
    terminal.expect(b"33 101")
    terminal.expect(b"kind-" + os.environ.get("TERM", "dumb").encode())
    terminal.expect(b"/dev/pts/")
    terminal.setwinsize(44, 120)
    time.sleep(0.5)
    terminal.sendline(b"stty size")
    terminal.expect(b"44 120")
    terminal.sendline(b"sleep 987001")
    time.sleep(0.5)
    terminal.sendcontrol("c")
    terminal.sendline(b"exit $((40 + 2))")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 42


def test_a_client_that_goes_takes_its_commands_with_it(shared: OpenSsh) -> None:
    for options in ((), ("-tt",)):
        client = shared.start("echo up; sleep 987002", *options)
        assert client.stdout is not None
        assert client.stdout.readline().strip() == b"up"
        shared.end(client)
        until_gone(shared, "sleep 987002")


def test_only_harmless_variables_are_taken(shared: OpenSsh) -> None:
    sent = ("-o", "SetEnv=COLORTERM=truecolor LD_PRELOAD=/tmp/x.so LANG=de_DE.UTF-8 NO_COLOR='1;id'")
    done = shared.run("echo $COLORTERM,$LD_PRELOAD,$LANG,$NO_COLOR", *sent)
    before = shared.run("echo $LANG").stdout.decode().strip()
    assert done.stdout.decode() == f"truecolor,,{before},1;id\n"


def test_commands_are_recorded_like_any_other(server: Server, shared: OpenSsh) -> None:
    assert shared.run("echo recorded-$((1 + 1)); exit 6").returncode == 6
    last = executions(server, shared)[0]
    assert (last["command"], last["exit_status"]) == ("echo recorded-$((1 + 1)); exit 6", 6)
    path = f"{server.url}/v1/devboxes/{shared.view['id']}/logs"
    logs = httpx.get(path, headers=server.headers, timeout=20).raise_for_status().json()["logs"]
    assert "recorded-2" in [entry.get("message") for entry in logs]


def test_many_commands_share_a_connection(shared: OpenSsh, tmp_path: Path) -> None:
    socket = ("-o", f"ControlPath={tmp_path}/c", "-o", "ControlMaster=auto", "-o", "ControlPersist=20")
    try:
        assert shared.run("true", *socket).returncode == 0
        running = [shared.start(f"sleep 0.2; echo {number}; exit {number}", *socket) for number in range(8)]
        ended = [(one.communicate(timeout=30)[0], one.returncode) for one in running]
        assert ended == [(f"{number}\n".encode(), number) for number in range(8)]
    finally:
        shared.run("", *socket, "-O", "exit")
