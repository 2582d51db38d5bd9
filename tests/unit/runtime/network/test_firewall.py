"""The text that nft gets. What it does is tested from inside real boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.runtime.contract import HostUnfit
from corral.runtime.network import firewall
from corral.runtime.network.firewall import MOST_FLOWS, Wall

WALL = Wall("corral_x", ["198.18.0.0/22"], ["198.18.0.0"], ["10.0.0.2", "10.0.0.2"], [])


def chain(rules: str, name: str) -> list[str]:
    """The rules of one chain, in order."""
    body = rules.partition(f"chain {name} {{\n")[2].partition("\n  }")[0]
    return [line.strip() for line in body.splitlines() if line.strip()]


def test_the_table_is_replaced_in_one_transaction() -> None:
    lines = WALL.rules().splitlines()
    assert lines[:3] == ["table inet corral_x", "delete table inet corral_x", "table inet corral_x {"]


def test_a_resolver_in_a_closed_range_is_reached_before_the_range_is_closed() -> None:
    rules = chain(WALL.rules(), "to_world")
    resolver = next(number for number, rule in enumerate(rules) if "@resolvers" in rule)
    metadata = next(number for number, rule in enumerate(rules) if "@metadata" in rule)
    assert resolver < metadata


def test_what_no_rule_allows_towards_host_and_boxes_is_dropped() -> None:
    assert chain(WALL.rules(), "to_host")[-1] == "counter drop"
    assert chain(WALL.rules(), "to_box")[-1] == "counter drop"


@pytest.mark.parametrize("services", [[], [8700], [8700, 9000]])
def test_services_are_exactly_those_that_are_offered(services: list[int]) -> None:
    wall = Wall("corral_x", ["198.18.0.0/22"], ["198.18.0.0"], [], services)
    line = next(line for line in wall.rules().splitlines() if "set services" in line)
    assert ("elements" in line) == bool(services)
    assert all(str(port) in line for port in services)


def test_a_resolver_is_named_once() -> None:
    assert WALL.rules().count("10.0.0.2") == 1


def test_new_connections_of_a_box_are_counted_before_anything_lets_them_out() -> None:
    assert chain(WALL.rules(), "to_world")[0] == (
        f"ct state new add @flows {{ ip saddr ct count over {MOST_FLOWS} }} counter drop"
    )


def test_an_nft_that_does_not_end_is_an_unfit_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nft"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(firewall, "NFT_LIMIT_S", 0.2)
    with pytest.raises(HostUnfit, match=r"cannot install packet filter: nft did not end within 0\.2 s"):
        firewall.apply(WALL)
