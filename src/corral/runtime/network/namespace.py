"""A slot: an id range, a user namespace and a network namespace with a configured veth pair, ready for one box.

A child makes the namespaces, since a process that unshares its user namespace cannot come back; the launcher keeps
descriptors of them, so that nothing is pinned by name and all of it goes away with the last process.
Standard library only: runs in the launcher. Must not choose an index or an address.
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass, field
from typing import Final

from corral.runtime.linux import netlink, syscalls

IDS_PER_BOX: Final = 65536
BOX_LINK: Final = "eth0"
#: Fixed, since a host with tunnel modules puts links of its own into each new namespace.
BOX_LINK_INDEX: Final = 100
#: The host's ends count from here, far above what the kernel gives to links that ask for no number.
HOST_LINK_INDEX: Final = 1 << 24
_LOOPBACK_INDEX: Final = 1
_IPV6: Final = "/proc/sys/net/ipv6/conf"
#: Namespaces of each kind that a nested box may make. Little of the memory that they take is counted as the box's.
MOST_NAMESPACES: Final = 256
KINDS: Final = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_BOUNDS: Final = "/proc/sys/user"


@dataclass(frozen=True, slots=True)
class SlotWish:
    """What to make. `link` is the host's end of the pair, `address` the box's, `gateway` the host's for it.

    The namespaces that can be made in the user namespace of a `nested` one are bounded.
    """

    index: int
    id_base: int
    link: str
    address: str
    gateway: str
    nested: bool = False


@dataclass(slots=True)
class Slot:
    """Descriptors of a slot's namespaces, and of the user namespaces that map layers of other boxes into its range."""

    id_base: int
    user: int
    net: int
    mappings: dict[int, int] = field(default_factory=dict)

    @property
    def user_path(self) -> str:
        """Where any process of the host can open the user namespace while this process holds it."""
        return f"/proc/{os.getpid()}/fd/{self.user}"

    @property
    def net_path(self) -> str:
        """As `user_path`, for the network namespace."""
        return f"/proc/{os.getpid()}/fd/{self.net}"

    def userns_for(self, layer_base: int) -> int:
        """A user namespace that maps a layer owned from `layer_base` on into the box's range."""
        if layer_base == 0:
            return self.user
        if layer_base not in self.mappings:
            self.mappings[layer_base] = make_userns(layer_base, self.id_base)
        return self.mappings[layer_base]

    def close(self) -> None:
        """Let go; the namespaces live on in the box that joined them, or vanish."""
        for fd in (self.user, self.net, *self.mappings.values()):
            os.close(fd)


@dataclass(slots=True)
class SlotMaker:
    """Making one slot, in steps that never block: call `advance` whenever `channel` is readable."""

    wish: SlotWish
    pid: int
    channel: socket.socket
    user: int = -1
    net: int = -1
    unwanted: bool = False

    @classmethod
    def fork(cls, wish: SlotWish) -> SlotMaker:
        """Start the child that unshares."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            here.close()
            there.close()
            raise
        if pid == 0:
            here.close()
            _unshare_both(there, wish.id_base, nested=wish.nested)
        there.close()
        return cls(wish, pid, here)

    def advance(self, host: Outside) -> bool:
        """React to the child's next word; True when the slot is complete."""
        word, fds, _, _ = socket.recv_fds(self.channel, 16, 1, socket.MSG_CMSG_CLOEXEC)
        if word == b"user":
            write_id_map(self.pid, 0, self.wish.id_base)
            self.channel.send(b"go")
            return False
        if word != b"net":
            raise OSError(0, "the child ended early")
        inside = netlink.Route(socket.socket(fileno=fds[0]))
        try:
            self.user = os.open(f"/proc/{self.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            self.net = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.channel.send(b"go")
            connect(self.wish, host, inside, self.net)
        finally:
            inside.close()
        return True

    def finish(self) -> Slot | None:
        """The slot, or None (and nothing left open) when it was not completed. The child ends by itself."""
        self.channel.close()
        if self.user >= 0 and self.net >= 0:
            return Slot(self.wish.id_base, self.user, self.net)
        for fd in (self.user, self.net):
            if fd >= 0:
                os.close(fd)
        return None

    def kill(self) -> None:
        """End the child."""
        os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Outside:
    """The host's own network namespace: a socket that configures it, and the folder of its links' IPv6 settings.

    `settings` is -1 on a kernel without IPv6. A descriptor, because the kernel keeps the name `ipv6` of every network
    namespace in one chain, and to find the host's by its path takes longer with every box.
    """

    route: netlink.Route
    settings: int

    @classmethod
    def open(cls) -> Outside:
        """Open both in the caller's network namespace."""
        try:
            settings = os.open(_IPV6, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            settings = -1
        return cls(netlink.Route.open(), settings)

    def close_ipv6(self, link: str) -> None:
        """Let a link that is not up yet have no IPv6."""
        if self.settings < 0:
            return
        fd = os.open(f"{link}/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.settings)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)


def connect(wish: SlotWish, host: Outside, inside: netlink.Route, netns: int) -> None:
    """Join the namespace to the host: a pair, an address, routes both ways. No bridge: it ends at 1,024 ports.

    No ARP either: the kernel has one table of neighbours for all namespaces, 1,024 entries by default, and a box that
    asks for that many addresses would leave the host and every other box without.
    """
    here = HOST_LINK_INDEX + wish.index
    address = b"\x02\x00" + wish.index.to_bytes(4, "big")
    host.route.add_veth(wish.link, here, BOX_LINK, BOX_LINK_INDEX, netns, address)
    # Boxes have none. Each link would bring routes of its own, through which the kernel walks for every further link:
    # with 4,000 boxes that was a seventh of all the time that a create took.
    host.close_ipv6(wish.link)
    host.route.up(here)
    host.route.add_route(here, wish.address)
    inside.up(_LOOPBACK_INDEX)
    # Not by /proc/sys: the kernel keeps the names there of all network namespaces in one chain, and walks it.
    inside.no_ipv6_address(BOX_LINK_INDEX)
    inside.add_address(BOX_LINK_INDEX, wish.address)
    inside.up(BOX_LINK_INDEX)
    inside.add_route(BOX_LINK_INDEX, wish.gateway)
    inside.add_route(BOX_LINK_INDEX, None, wish.gateway)


def write_id_map(pid: int, inside: int, outside: int) -> None:
    """Map IDS_PER_BOX user and group ids of `pid`'s user namespace."""
    for name in ("uid_map", "gid_map"):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"{inside} {outside} {IDS_PER_BOX}".encode())
        finally:
            os.close(fd)


def make_userns(inside: int, outside: int) -> int:
    """A descriptor of a new user namespace with this map and no process in it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        here.close()
        _unshare_user(there)
    there.close()
    try:
        if here.recv(16) != b"user":
            raise OSError(0, "the child ended early")
        write_id_map(pid, inside, outside)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        here.close()
        os.waitpid(pid, 0)


def _unshare_both(channel: socket.socket, owner: int, *, nested: bool) -> None:
    """In the child: new namespaces, and a socket that can configure the network one. Never returns.

    `owner` is the host user that makes them. The kernel counts inotify instances, pending signals, locked memory and
    message queues of a user namespace against its maker too: with root as the maker of all, one box could use up
    what every other box and the host's own services have of these.
    """
    try:
        syscalls.prctl(
            syscalls.PR_SET_SECUREBITS, syscalls.SECBIT_NO_SETUID_FIXUP
        )  # a change of user keeps the rights
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        channel.send(b"user")
        if channel.recv(16) == b"go":
            if nested:
                _unshare_bounded()
            # After the user namespace, so that the box's root owns its network.
            syscalls.unshare(syscalls.CLONE_NEWNET)
            route = netlink.Route.open()
            socket.send_fds(channel, [b"net"], [route.sock.fileno()])
            channel.recv(16)
    finally:
        os._exit(0)


def _unshare_bounded() -> None:
    """From a user namespace whose ids are mapped into one below it with the same ids. Raises OSError.

    The kernel counts what is made in a user namespace for each of its users, and in all for its maker in the one
    above: a bound on all that a box makes has to be in a namespace between the box's and the host's.
    """
    for kind in KINDS:
        fd = os.open(f"{_BOUNDS}/max_{kind}_namespaces", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, str(MOST_NAMESPACES).encode())
        os.close(fd)
    # The map of a namespace is written from the one above it: by a child that stays there.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    inside, pid = socket.socketpair(), os.getpid()
    writer = os.fork()
    if writer == 0:
        try:
            inside[1].recv(1)
            write_id_map(pid, 0, 0)
        finally:
            os._exit(0)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    inside[0].send(b"x")
    os.waitpid(writer, 0)


def _unshare_user(channel: socket.socket) -> None:
    """In the child: a new user namespace, held until the parent has opened it. Never returns."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        channel.send(b"user")
        channel.recv(16)
    finally:
        os._exit(0)
