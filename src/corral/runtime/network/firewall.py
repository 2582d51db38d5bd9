"""The packet filter around all boxes of one data folder: one nftables table, made and replaced in one transaction.

Boxes reach the world and nothing else: not each other, not the host (but its resolvers and the services that it
offers), not a cloud's metadata. Must not touch tables of others.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.runtime.contract import HostUnfit
from corral.runtime.linux import netlink
from corral.runtime.network.blocks import LINK_PREFIX

#: Link-local, where clouds keep metadata and credentials; then those of Alibaba, Oracle and Azure outside of it.
METADATA: Final = ("169.254.0.0/16", "100.100.100.200", "192.0.0.192", "168.63.129.16")
#: The kernel takes one transaction at a time, of all users of the host: a busy host was seen to need over 10 s.
NFT_LIMIT_S: Final = 30
#: Connections that the host tracks for one box; its table is shared by all (262,144 entries by default).
MOST_FLOWS: Final = 16384
TABLE_PREFIX: Final = "corral_"
_LOOPBACK_INDEX: Final = 1

# `oif missing`, not `oif 0`: for that nft lists all links of the host, in vain while thousands of boxes come and go.
_RULES: Final = """\
table inet {table}
delete table inet {table}
table inet {table} {{
  set boxes {{ type ipv4_addr; flags interval; elements = {{ {subnets} }} }}
  set metadata {{ type ipv4_addr; flags interval; elements = {{ {metadata} }} }}
  set resolvers {{ type ipv4_addr; {resolvers} }}
  set gateways {{ type ipv4_addr; elements = {{ {gateways} }} }}
  set services {{ type inet_service; {services} }}
  set flows {{ type ipv4_addr; flags dynamic; size 65536; }}

  chain raw {{
    type filter hook prerouting priority -310; policy accept;
    iifname "{links}*" meta nfproto ipv6 counter drop
    iifname "{links}*" fib saddr . iif oif missing counter drop
    iifname != "{links}*" iifname != "lo" ip saddr @boxes counter drop
  }}
  chain input {{
    type filter hook input priority -5; policy accept;
    ip saddr @boxes iifname "{links}*" jump to_host
  }}
  chain to_host {{
    ct state established,related accept
    ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @gateways tcp dport @services accept
    ip daddr @gateways icmp type echo-request accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority -5; policy accept;
    oifname "{links}*" ip daddr @boxes jump to_box
    ip saddr @boxes iifname "{links}*" jump to_world
  }}
  chain to_box {{
    ct state established,related accept
    counter drop
  }}
  chain to_world {{
    ct state new add @flows {{ ip saddr ct count over {most_flows} }} counter drop
    oifname "{links}*" counter drop
    ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @metadata counter drop
    accept
  }}
  chain source {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr @boxes oifname != "{links}*" oifname != "lo" masquerade
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Wall:
    """What the table is made of."""

    table: str
    subnets: Sequence[str]
    gateways: Sequence[str]
    resolvers: Sequence[str]
    services: Sequence[int]

    def rules(self) -> str:
        """The text for `nft -f -`: the table as it should be, replacing what there was."""
        return _RULES.format(
            table=self.table,
            links=LINK_PREFIX,
            subnets=", ".join(self.subnets),
            metadata=", ".join(METADATA),
            most_flows=MOST_FLOWS,
            gateways=", ".join(self.gateways),
            resolvers=_elements(self.resolvers),
            services=_elements([str(port) for port in self.services]),
        )


def _elements(items: Sequence[str]) -> str:
    return f"elements = {{ {', '.join(dict.fromkeys(items))} }};" if items else ""


def apply(wall: Wall) -> None:
    """Install the table, replacing an older one in the same transaction. Raises HostUnfit."""
    _nft(wall.rules(), "install packet filter")


def remove(table: str) -> None:
    """Remove the table; one that is not there is fine."""
    _nft(f"table inet {table}\ndelete table inet {table}\n", "remove packet filter")


def remove_orphans(known: Set[str]) -> None:
    """Remove tables of ours that are not `known`: their servers were killed, and others have their addresses."""
    listed = subprocess.run(
        ["nft", "list", "tables", "inet"], capture_output=True, text=True, timeout=NFT_LIMIT_S, check=False
    )
    for line in listed.stdout.splitlines():
        name = line.rpartition(" ")[2]
        if name.startswith(TABLE_PREFIX) and name not in known:
            remove(name)


def _nft(rules: str, what: str) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=rules, capture_output=True, text=True, timeout=NFT_LIMIT_S, check=False
        )
    except FileNotFoundError as error:
        message = f"cannot {what}: nft is not installed"
        raise HostUnfit(message, remedy="install nftables") from error
    except subprocess.TimeoutExpired as error:
        message = f"cannot {what}: nft did not end within {NFT_LIMIT_S} s"
        raise HostUnfit(message, remedy="try again; look for what else changes packet filters on this host") from error
    if done.returncode:
        message = f"cannot {what}: {done.stderr.strip()[-500:]}"
        raise HostUnfit(
            message, remedy="the kernel needs nftables with nat and fib (CONFIG_NFT_NAT, CONFIG_NFT_FIB_INET)"
        )


def pass_older_filters() -> None:
    """Let boxes' packets through an iptables FORWARD chain whose policy is DROP, as Docker leaves it.

    An accept in one table does not overrule a drop in another, so it has to be said in that chain itself.
    """
    for arguments in (("-i", f"{LINK_PREFIX}+"), ("-o", f"{LINK_PREFIX}+")):
        rule = [*arguments, "-j", "ACCEPT"]
        if _iptables("-C", "FORWARD", *rule).returncode:
            done = _iptables("-I", "FORWARD", "1", *rule)
            if done.returncode:
                message = f"cannot let boxes through the host's FORWARD chain: {done.stderr.strip()[-500:]}"
                raise HostUnfit(message, remedy=f"iptables -I FORWARD {' '.join(rule)}")


def older_filter_drops() -> bool:
    """Whether there is an iptables FORWARD chain with the policy DROP."""
    try:
        listing = _iptables("-S", "FORWARD")
    except FileNotFoundError:
        return False
    return listing.returncode == 0 and "-P FORWARD DROP" in listing.stdout


def forwarding(proc: Path = Path("/proc/sys/net/ipv4/ip_forward")) -> bool:
    """Whether the host forwards IPv4."""
    return proc.read_text().strip() != "0"


def enable_forwarding(proc: Path = Path("/proc/sys/net/ipv4/ip_forward")) -> None:
    """Make the host forward IPv4, until it boots again. Raises OSError."""
    if not forwarding(proc):
        proc.write_text("1")


def add_gateways(addresses: Sequence[str]) -> None:
    """Give the host's loopback the addresses that boxes see as their gateway. Idempotent."""
    route = netlink.Route.open()
    try:
        for address in addresses:
            route.add_address(_LOOPBACK_INDEX, address)
    finally:
        route.close()


def remove_gateways(addresses: Sequence[str]) -> None:
    """Take them away again; one that is not there is fine."""
    route = netlink.Route.open()
    try:
        for address in addresses:
            route.delete_address(_LOOPBACK_INDEX, address)
    finally:
        route.close()


def _iptables(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["iptables", "-w", "5", *arguments], capture_output=True, text=True, timeout=NFT_LIMIT_S, check=False
    )
