"""What root in a box can reach: the world, and nothing of the host or of its neighbours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corral.runtime.contract import ExecSpec
from corral.runtime.network import firewall
from tests.harness import guest_reach
from tests.integration.oci.conftest import Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]


@contextmanager
def listening() -> Iterator[int]:
    """A TCP port on every address of the host."""
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        yield int(server.getsockname()[1])


def host_addresses() -> set[str]:
    """Addresses of the host by which another machine could call it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return {probe.getsockname()[0]}


def tried(address: str, port: int) -> str:
    """A command that ends well when a connection was made."""
    program = f"import socket; socket.create_connection(('{address}', {port}), 1.5)"
    return f'python3 -c "{program}"'


async def test_boxes_cannot_reach_each_other(bench: Bench) -> None:
    await asyncio.gather(bench.box("one"), bench.box("two"))
    address = (await bench.sh("two", "hostname -I")).stdout.split()[0]
    await bench.runtime.execute("two", ExecSpec("server", ("python3", "-m", "http.server", "8000")))
    own = f"for n in 1 2 3 4 5 6 7 8; do {tried(address, 8000)} && break; sleep 0.3; done"
    assert (await bench.sh("two", own)).code == 0
    assert (await bench.sh("one", tried(address, 8000), "root")).code != 0


async def test_a_box_reaches_no_port_of_the_host_but_those_it_offers(bench: Bench) -> None:
    with listening() as offered, listening() as other:
        await bench.reopen(host_services=(offered,))
        await bench.box("box")
        gateway = (await bench.sh("box", "ip -4 route show default | cut -d' ' -f3")).stdout.strip()
        assert (await bench.sh("box", tried(gateway, offered))).code == 0
        assert (await bench.sh("box", tried(gateway, other), "root")).code != 0
        for address in host_addresses():
            assert (await bench.sh("box", tried(address, offered), "root")).code != 0
            assert (await bench.sh("box", tried(address, other), "root")).code != 0


async def test_metadata_addresses_are_closed(bench: Bench) -> None:
    await bench.box("box")
    for address in ("169.254.169.254", "100.100.100.200"):
        assert (await bench.sh("box", tried(address, 80), "root")).code != 0


async def test_a_box_cannot_change_its_network(bench: Bench) -> None:
    await bench.box("box")
    ran = await bench.sh("box", "ip addr add 198.18.200.1/32 dev eth0 || ip link set eth0 down", "root")
    assert "not permitted" in ran.stderr


async def test_a_package_can_be_downloaded(bench: Bench) -> None:
    await bench.box("box")
    ran = await bench.sh("box", "cd /tmp && pip download -q --no-deps six && ls", "root")
    assert "six-" in ran.stdout, ran


async def test_root_in_a_box_is_nobody_on_the_host(bench: Bench) -> None:
    first, second = await asyncio.gather(bench.box("one"), bench.box("two"))
    await bench.sh("one", "sleep 60 & ", "root")
    owners = set()
    for box in (first, second):
        status = Path(f"/proc/{box.pid}/status").read_text().splitlines()
        owners.add(next(line.split()[1] for line in status if line.startswith("Uid:")))
    assert len(owners) == 2
    assert all(int(owner) >= 0x2000_0000 for owner in owners)


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "mount -t proc none /mnt",
        "umount /run/corral/guest",
        "umount /proc/sys",
        "unshare -U true",
        "unshare -m true",
        "nsenter -t 1 -m true",
        "cat /proc/1/environ",
        "ls /proc/1/fd/",
        "cat /run/corral/guest",
        "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/mm/transparent_hugepage/enabled",
        "dmesg",
        "hostname other",
        "date -s 2001-01-01",
        "python3 -c 'import ctypes,os; l=ctypes.CDLL(None,use_errno=True); exit(l.ptrace(16,1,0,0) == -1)'",
        "python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(425,8,0) == -1)'",  # io_uring_setup
        "python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(323,0) == -1)'",  # userfaultfd
        "python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(321,0,0,0) == -1)'",  # bpf
        "python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(250,0,-3,0) == -1)'",  # keyctl
    ],
)
async def test_root_in_a_box_is_refused(walled: Bench, attempt: str) -> None:
    assert (await walled.sh("box", attempt, "root")).code != 0


async def test_everyday_root_work_is_possible(bench: Bench) -> None:
    await bench.box("box")
    for command in (
        "touch /opt/x && chown user /opt/x && chmod u+s /opt/x",
        "useradd -m someone && su someone -c id",
        "mkdir -p /srv/a && rm -rf /srv/a && mv /opt /opt2",
        "setcap cap_net_bind_service+ep /opt2/x || test ! -e /sbin/setcap",
        "sleep 60 & kill -9 $!",
        "chroot / true",
        "nice -n 5 true",
    ):
        ran = await bench.sh("box", command, "root")
        assert ran.code == 0, (command, ran)
    assert (await bench.sh("box", "sudo -n id -u")).stdout == "0\n"


@pytest.fixture
async def walled(bench: Bench) -> Bench:
    await bench.box("box")
    return bench


async def test_the_filter_of_a_server_that_was_killed_does_not_outlive_its_claim(bench: Bench) -> None:
    old = firewall.Wall("corral_00000000", ["198.18.0.0/15"], ["198.18.0.0"], [], [])
    firewall.apply(old)
    with listening() as offered:
        await bench.reopen(host_services=(offered,))
        await bench.box("box")
        gateway = (await bench.sh("box", "ip -4 route show default | cut -d' ' -f3")).stdout.strip()
        assert (await bench.sh("box", tried(gateway, offered))).code == 0


@pytest.mark.parametrize("user", ["root", None])
async def test_no_process_of_a_box_can_speak_to_its_guest(bench: Bench, user: str | None) -> None:
    await bench.box("box")
    await bench.sh("box", "head -c 10000000 /dev/zero > /tmp/large; chmod 644 /tmp/large")
    # A file call that waits: a thread of process 1 that has become the very user.
    reader = await bench.runtime.read_file("box", "/tmp/large", user=user)
    done = await bench.sh("box", f"python3 - <<'END'\n{guest_reach.PROGRAM}\nEND", user)
    await reader.close()
    tasks, tried = done.stdout.splitlines()
    assert tasks == "tasks 2"
    assert int(tried.split()[1]) > 64
