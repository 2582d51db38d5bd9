"""Route netlink: links, addresses and routes in one request each, without a process.

The seven requests of a slot take 1.5 ms on a socket, most of it the making of the pair itself.
Standard library only: the launcher loads this. Must not know what a slot or a box is.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_NEWROUTE: Final = 24

NLM_F_REQUEST: Final = 0x01
NLM_F_ACK: Final = 0x04
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLMSG_ERROR: Final = 2

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_LINKINFO: Final = 18
IFLA_AF_SPEC: Final = 26
IFLA_NET_NS_FD: Final = 28
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
VETH_INFO_PEER: Final = 1
NLA_F_NESTED: Final = 0x8000

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5

IFF_UP: Final = 1
IFF_NOARP: Final = 0x80
RT_TABLE_MAIN: Final = 254
RTPROT_BOOT: Final = 3
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254
RTN_UNICAST: Final = 1
NETLINK_ROUTE: Final = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def link_message(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """A struct ifinfomsg."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def address_message(index: int, address: str) -> bytes:
    """A struct ifaddrmsg with one IPv4 address as /32."""
    packed = socket.inet_aton(address)
    header = struct.pack("=BBBBi", socket.AF_INET, 32, 0, RT_SCOPE_UNIVERSE, index)
    return header + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)


@dataclass(slots=True)
class Route:
    """A route netlink socket, bound to the network namespace in which it was opened."""

    sock: socket.socket
    sequence: int = 0

    @classmethod
    def open(cls) -> Route:
        """Open a socket in the caller's network namespace."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        sock.bind((0, 0))
        sock.settimeout(10)
        return cls(sock)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """Send one request and wait for its acknowledgement. Raises OSError with the kernel's errno."""
        self.sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, self.sequence, 0)
        self.sock.send(header + body)
        while True:
            data = self.sock.recv(65536)
            _, answer, _, sequence, _ = struct.unpack_from("=IHHII", data)
            if sequence == self.sequence and answer == NLMSG_ERROR:
                break
        code = -struct.unpack_from("=i", data, 16)[0]
        if code:
            raise OSError(code, f"netlink request {kind}: {os.strerror(code)}")

    def add_veth(self, name: str, index: int, peer: str, peer_index: int, peer_netns: int, address: bytes) -> None:
        """Make a veth pair: `name` here, not up yet; `peer` in the namespace that descriptor `peer_netns` refers to.

        Both ends have the link-layer `address` and neither asks for nor answers about another one: without ARP each
        sends to its own address, which is the other's. The kernel takes a `peer_index` only beside an `index`.
        """
        there = link_message(peer_index, IFF_NOARP, IFF_NOARP) + attribute(IFLA_IFNAME, peer.encode() + b"\0")
        there += attribute(IFLA_NET_NS_FD, struct.pack("=I", peer_netns)) + attribute(IFLA_ADDRESS, address)
        body = link_message(index, IFF_NOARP, IFF_NOARP) + attribute(IFLA_IFNAME, name.encode() + b"\0")
        body += attribute(IFLA_ADDRESS, address)
        kind = attribute(IFLA_INFO_KIND, b"veth")
        body += nested(IFLA_LINKINFO, kind, nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, there)))
        self.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)

    def delete_link(self, name: str) -> None:
        """Remove a link (and its peer); one that is not there is fine."""
        try:
            self.request(RTM_DELLINK, 0, link_message() + attribute(IFLA_IFNAME, name.encode() + b"\0"))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def no_ipv6_address(self, index: int) -> None:
        """Let a link that is not up yet get no IPv6 address by itself. Without effect on a kernel without IPv6."""
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        try:
            self.request(RTM_SETLINK, 0, link_message(index) + nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode)))
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise

    def up(self, index: int) -> None:
        """Switch a link on."""
        self.request(RTM_NEWLINK, 0, link_message(index, IFF_UP, IFF_UP))

    def add_address(self, index: int, address: str) -> None:
        """Give a link an IPv4 address of its own, as /32. One that is there already is fine."""
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, address_message(index, address))

    def delete_address(self, index: int, address: str) -> None:
        """Take an address from a link; one that is not there is fine."""
        try:
            self.request(RTM_DELADDR, 0, address_message(index, address))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    def add_route(self, index: int, destination: str | None, gateway: str | None = None) -> None:
        """Route one IPv4 address (None: all of them) to a link, through `gateway` if there is one."""
        scope = RT_SCOPE_LINK if gateway is None else RT_SCOPE_UNIVERSE
        bits = 0 if destination is None else 32
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
        if destination is not None:
            body += attribute(RTA_DST, socket.inet_aton(destination))
        if gateway is not None:
            body += attribute(RTA_GATEWAY, socket.inet_aton(gateway))
        body += attribute(RTA_OIF, struct.pack("=i", index))
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)
