"""Slots are unique on the host, across data folders, and come back."""

from __future__ import annotations

import fcntl
import ipaddress
from pathlib import Path

import pytest

from corral.runtime.contract import HostExhausted
from corral.runtime.network import blocks
from corral.runtime.network.blocks import BLOCKS, SLOTS_PER_BLOCK, Blocks, Plan
from corral.runtime.network.namespace import IDS_PER_BOX

PLAN = Plan(ipaddress.IPv4Network(blocks.DEFAULT_NETWORK))


def folder(path: Path, *boxes: str) -> Path:
    """A data folder with boxes, whose server does not run."""
    (path / "boxes").mkdir(parents=True)
    (path / "lock").touch()
    for name in boxes:
        (path / "boxes" / name).mkdir()
    return path


def test_no_two_slots_share_an_id_an_address_or_a_link() -> None:
    indexes = [1, 2, SLOTS_PER_BLOCK - 1, SLOTS_PER_BLOCK + 1, BLOCKS * SLOTS_PER_BLOCK - 1]
    wishes = [PLAN.wish(index) for index in indexes]
    for name in ("id_base", "address", "link"):
        assert len({getattr(wish, name) for wish in wishes}) == len(wishes)
    assert all(wish.id_base % IDS_PER_BOX == 0 for wish in wishes)
    assert wishes[-1].id_base + IDS_PER_BOX <= 0xFFFF_FFFF
    assert all(len(wish.link) <= 15 for wish in wishes)


def test_no_box_has_a_gateways_address(tmp_path: Path) -> None:
    one = Blocks(tmp_path / "run", folder(tmp_path / "one"))
    one.open(set())
    one.grow()
    gateways = {PLAN.gateway(block) for block in range(BLOCKS)}
    assert not gateways & {PLAN.wish(index).address for index in one.free}


def test_two_data_folders_get_different_blocks(tmp_path: Path) -> None:
    one = Blocks(tmp_path / "run", folder(tmp_path / "one", "box"))
    two = Blocks(tmp_path / "run", folder(tmp_path / "two", "box"))
    for each in (one, two):
        each.open(set())
        each.grow()
    assert not set(one.free) & set(two.free)


def test_a_restarted_server_has_its_blocks_and_spares_slots_in_use(tmp_path: Path) -> None:
    data = folder(tmp_path / "one", "box")
    first = Blocks(tmp_path / "run", data)
    first.open(set())
    first.grow()
    taken = first.take()
    assert taken is not None
    second = Blocks(tmp_path / "run", data)
    second.open({taken})
    assert second.held == first.held
    assert taken not in second.free
    assert len(second.free) == SLOTS_PER_BLOCK - 2


def test_the_slot_given_back_last_is_used_last(tmp_path: Path) -> None:
    one = Blocks(tmp_path / "run", folder(tmp_path / "one"))
    one.open(set())
    one.grow()
    taken = one.take()
    assert taken is not None
    one.give(taken)
    assert one.free[-1] == taken


def test_the_claim_of_a_folder_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    one = Blocks(run, tmp_path / "never-was")
    one.open(set())
    one.grow()
    two = Blocks(run, folder(tmp_path / "two"))
    two.open(set())
    assert two.grow() == one.held[0]


def test_the_claim_of_a_stopped_server_with_boxes_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    one = Blocks(run, folder(tmp_path / "one", "box"))
    one.open(set())
    two = Blocks(run, folder(tmp_path / "two"))
    two.open(set())
    assert one.grow() != two.grow()


def test_the_claim_of_a_running_server_without_boxes_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    one = Blocks(run, folder(tmp_path / "one"))
    one.open(set())
    first = one.grow()
    with (tmp_path / "one" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        two = Blocks(run, folder(tmp_path / "two"))
        two.open(set())
        assert two.grow() != first


def test_a_host_without_blocks_left_is_exhausted(tmp_path: Path) -> None:
    one = Blocks(tmp_path / "run", folder(tmp_path / "one", "box"))
    one.open(set())
    for _ in range(BLOCKS):
        one.grow()
    with pytest.raises(HostExhausted):
        one.grow()
    one.release()
    assert list((tmp_path / "run" / "blocks").iterdir()) == []


def test_slots_of_a_claimed_block_are_free_once_it_is_admitted(tmp_path: Path) -> None:
    one = Blocks(tmp_path / "run", folder(tmp_path / "one"))
    one.open(set())
    one.claim()
    assert (len(one.held), one.take()) == (1, None)
    one.admit()
    assert one.take() == one.held[0] * SLOTS_PER_BLOCK + 1
