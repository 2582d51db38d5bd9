"""What root in a box reaches by the network, forged packets included; and that it fills no table of everybody's."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.yard import BOTH, MARKS, NEIGHBOUR, Yard

pytestmark = MARKS

METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16")

REACH = """
found = []
def reach(address, port):
    try:
        socket.create_connection((address, port), 1.0).close()
        found.append([address, port])
    except OSError:
        pass
threads = [threading.Thread(target=reach, args=target) for target in {targets!r}]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
tell(found)
"""

PACKETS = """
def checksum(data):
    data += b"\\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
def echo(source, target, mark):
    body = struct.pack("!BBHHH", 8, 0, 0, mark, 1) + b"corral"
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
"""


def host_addresses(family: str) -> list[str]:
    listed = subprocess.run(["ip", "-j", family, "addr"], capture_output=True, text=True, check=True, timeout=5)
    return [entry["local"] for link in json.loads(listed.stdout) for entry in link["addr_info"]]


@contextlib.contextmanager
def listening(address: str = "0.0.0.0", family: int = socket.AF_INET) -> Iterator[int]:
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        yield int(server.getsockname()[1])


@BOTH
@pytest.mark.parametrize("user", ["root", "user"])
async def test_no_address_of_the_host_answers(yard: Yard, user: str) -> None:
    with listening() as everywhere, listening("127.0.0.1") as loopback:
        own = set(host_addresses("-4"))
        addresses = {*own, yard.gateway, "0.0.0.0", "127.0.0.1", "127.0.1.1", "255.255.255.255"}
        targets = [(address, port) for address in addresses for port in (everywhere, loopback, 22)]
        targets += [(f"::ffff:{address}", everywhere) for address in addresses if address[0] != "0"]
        reached = await yard.probe(REACH.format(targets=targets), user=user)
        # What the host gave back meanwhile, other servers' links, is an address of the world by then.
        returned = own - set(host_addresses("-4"))
        assert [target for target in reached if target[0].removeprefix("::ffff:") not in returned] == []
        socket.create_connection((yard.gateway, everywhere), 2).close()


@BOTH
@pytest.mark.parametrize("user", ["root", "user"])
async def test_no_metadata_address_answers(yard: Yard, user: str) -> None:
    targets = [(address, port) for address in METADATA for port in (80, 443, 53)]
    assert await yard.probe(REACH.format(targets=targets), user=user) == []


@BOTH
async def test_no_port_of_a_neighbour_answers(yard: Yard) -> None:
    port = await yard.hold("""
server = socket.create_server(("0.0.0.0", 0))
tell(server.getsockname()[1])
time.sleep(6)
""", box=NEIGHBOUR)  # fmt: skip
    address = yard.address(NEIGHBOUR)
    mine = await yard.probe(REACH.format(targets=[(address, port)]), box=NEIGHBOUR)
    assert mine == [[address, port]]
    assert await yard.probe(REACH.format(targets=[(address, port)])) == []
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        pytest.fail("a port of a box is a port of the host")


@BOTH
async def test_there_is_no_ipv6_but_the_loopback(yard: Yard) -> None:
    host = [address for address in host_addresses("-6") if address != "::1"]
    with listening("::", socket.AF_INET6) as port:
        found = await yard.probe(f"""
results = []
for address in {host} + ["ff02::1", "fe80::1"]:
    for scope in (0, 100):
        with socket.socket(socket.AF_INET6) as s:
            s.settimeout(0.7)
            results.append(attempt(s.connect, (address, {port}, 0, scope)))
lines = open("/proc/net/if_inet6").read().splitlines() if os.path.exists("/proc/net/if_inet6") else []
tell([results, [line.split()[-1] for line in lines]])
""")
    assert "done" not in found[0]
    assert set(found[1]) <= {"lo"}


@BOTH
async def test_a_frame_of_ipv6_reaches_no_socket_of_the_host(yard: Yard) -> None:
    """Written past the box's own stack, to the host's end of the pair."""
    link = yard.link(yard.hostile)
    listed = subprocess.run(["ip", "-j", "-6", "addr", "show", "dev", link], capture_output=True, text=True, timeout=5)
    ours = [entry["local"] for one in json.loads(listed.stdout) for entry in one["addr_info"]]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::", 0))
        server.settimeout(0.7)
        await yard.probe(f"""
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0x86DD))
mac = s.getsockname()[4]
source = socket.inet_pton(socket.AF_INET6, "fe80::bad")
for address in {ours} + ["ff02::1", "::1"]:
    target = socket.inet_pton(socket.AF_INET6, address)
    udp = struct.pack("!HHHH", 9999, {server.getsockname()[1]}, 12, 0) + b"evil"
    pseudo = source + target + struct.pack("!IxxxB", 12, 17) + udp
    pseudo += b"\\0" * (len(pseudo) % 2)
    total = sum(struct.unpack(f"!{{len(pseudo) // 2}}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    udp = udp[:6] + struct.pack("!H", ~total & 0xFFFF) + udp[8:]
    head = struct.pack("!IHBB", 6 << 28, 12, 17, 64) + source + target
    for to in (mac, b"\\xff" * 6, b"\\x33\\x33\\0\\0\\0\\x01"):
        s.send(to + mac + b"\\x86\\xdd" + head + udp)
tell(1)
""")
        with pytest.raises(TimeoutError):
            server.recv(100)


@BOTH
async def test_a_packet_with_a_neighbours_address_is_dropped(yard: Yard) -> None:
    """The gateway answers echoes: an answer to a forged one would go to the neighbour."""
    mine, theirs = yard.address(yard.hostile), yard.address(NEIGHBOUR)
    listen = asyncio.create_task(
        yard.probe(
            """
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(1.5)
seen = []
try:
    while True:
        seen.append(s.recv(1000)[20:28].hex())
except TimeoutError:
    tell(seen)
""",
            box=NEIGHBOUR,
        )
    )
    await asyncio.sleep(0.3)
    sent = await yard.probe(
        PACKETS
        + f"""
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
answers = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
answers.settimeout(1.0)
for source in ({theirs!r}, "127.0.0.1", {yard.gateway!r}):
    attempt(s.sendto, echo(source, {yard.gateway!r}, 0xBAD), ({yard.gateway!r}, 0))
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frames.bind(("eth0", 0x800))
mac = frames.getsockname()[4]
frames.send(mac + mac + b"\\x08\\x00" + echo({theirs!r}, {yard.gateway!r}, 0xBAD))
frames.send(mac + mac + b"\\x08\\x00" + echo({mine!r}, {theirs!r}, 0xBAD))
s.sendto(echo({mine!r}, {yard.gateway!r}, 0x600D), ({yard.gateway!r}, 0))
seen = []
try:
    while "600d" not in "".join(seen):
        seen.append(answers.recv(1000)[20:28].hex())
except TimeoutError:
    pass
tell(seen)
"""
    )
    assert any("600d" in answer for answer in sent), "the honest echo got no answer"
    assert await listen == []


@BOTH
async def test_the_host_answers_no_arp_and_learns_no_neighbour_from_a_box(yard: Yard) -> None:
    addresses = host_addresses("-4")
    found = await yard.probe(f"""
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0x806))
s.settimeout(0.5)
mac = s.getsockname()[4]
for number in range(50):
    for address in {addresses}:
        source = socket.inet_aton(f"198.19.255.{{number}}")
        request = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, mac, source, b"\\0" * 6, socket.inet_aton(address))
        s.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + request)
seen = []
try:
    while True:
        frame = s.recv(100)
        if frame[20:22] == b"\\0\\x02":
            seen.append(frame.hex())
except TimeoutError:
    tell(seen)
""")
    assert found == []
    listed = subprocess.run(
        ["ip", "neigh", "show", "dev", yard.link(yard.hostile)], capture_output=True, text=True, timeout=5
    )
    assert "198.19.255" not in listed.stdout


def neighbours_of_all_namespaces() -> int:
    """Entries of the kernel's tables for IPv4 and IPv6."""
    files = [Path(f"/proc/net/stat/{name}_cache") for name in ("arp", "ndisc")]
    return sum(int(file.read_text().splitlines()[1].split()[0], 16) for file in files if file.exists())


async def test_a_box_cannot_fill_the_kernels_table_of_neighbours(yard: Yard) -> None:
    """One table for all namespaces: full, no box and no service of the host finds its gateway any more."""
    before = neighbours_of_all_namespaces()
    await yard.probe("""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
s.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for number in range(200):
    attempt(s.sendto, b"x", (f"10.9.8.{number}", 9))
    attempt(six.sendto, b"x", (f"fe80::1:{number:x}", 9, 0, 100))
tell(len(open("/proc/net/arp").readlines()))
""")
    # Entries without ARP are dropped by the kernel whenever it wants room; waiting ones (INCOMPLETE) are not.
    listed = await yard.run(yard.hostile, "bash", "-c", "ip neigh; ip -6 neigh")
    waiting = [line for line in listed.stdout.splitlines() if "INCOMPLETE" in line or "FAILED" in line]
    assert waiting == []
    assert neighbours_of_all_namespaces() - before < 1000
    await yard.answers()


@BOTH
async def test_a_box_cannot_use_up_what_users_share(yard: Yard) -> None:
    """Inotify instances and locked memory are counted for the maker of a user namespace, all namespaces together."""
    held = await yard.hold("""
count = 0
while count < 5000 and libc.inotify_init1(0) >= 0:
    count += 1
room = mmap.mmap(-1, 7 << 20)
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
locked = libc.mlock(ctypes.addressof(ctypes.c_char.from_buffer(room)), 7 << 20)
tell([count, locked])
time.sleep(3)
""")
    assert held[0] >= 10
    assert held[1] == 0
    libc = ctypes.CDLL(None, use_errno=True)
    mine = libc.inotify_init1(0)
    assert mine >= 0, "the host's root has no inotify instance left"
    os.close(mine)
    found = await yard.probe("""
room = mmap.mmap(-1, 7 << 20)
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
tell([libc.inotify_init1(0) >= 0, libc.mlock(ctypes.addressof(ctypes.c_char.from_buffer(room)), 7 << 20)])
""", box=NEIGHBOUR)  # fmt: skip
    assert found == [True, 0]


@BOTH
async def test_an_abstract_socket_of_the_host_or_a_neighbour_is_not_reached(yard: Yard) -> None:
    name = f"\0corral-security-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        found = await yard.probe(f"tell(attempt(socket.socket(socket.AF_UNIX).connect, {name!r}))")
    assert found == "ECONNREFUSED"
    shared = f"\0shared-{yard.hostile}"
    serve = f"s = socket.socket(socket.AF_UNIX); s.bind({shared!r}); s.listen(); tell(1); time.sleep(2)"
    await yard.hold(serve, box=NEIGHBOUR)
    assert await yard.probe(f"tell(attempt(socket.socket(socket.AF_UNIX).connect, {shared!r}))") == "ECONNREFUSED"


async def test_a_box_cannot_change_its_links_routes_or_filters(yard: Yard) -> None:
    for command in (
        "ip addr add 198.18.200.1/32 dev eth0",
        "ip link set eth0 address 02:00:00:00:00:99",
        "ip link set eth0 arp on",
        "ip route add 10.0.0.0/8 dev eth0",
        "ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:99 dev eth0",
        "ip link add x type veth",
        "ip link add x type bridge",
    ):
        ran = await yard.run(yard.hostile, "bash", "-c", command)
        assert ran.code != 0, command
        assert "not permitted" in ran.stderr, ran
    assert await yard.probe("tell(attempt(lambda: open('/dev/net/tun', 'rb')))") == "ENOENT"
