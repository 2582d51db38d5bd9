"""Copies of disks on both kinds of pools, and boxes that a killed server left standing still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench.leftovers import gone

from corral.images.layers import LayerShelf
from corral.images.remote_store import RemoteStore
from corral.images.service import Images
from corral.runtime.cgroup.layout import read_layout
from corral.runtime.contract import MIB, Limits, NoSuchSnapshot
from corral.runtime.linux import mounts
from corral.runtime.rootfs import transfer
from corral.storage.service import open_store
from tests.integration.oci.conftest import IMAGES, Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]


@pytest.mark.parametrize("disk", ["btrfs", "image"])
async def test_a_copy_is_whole_and_found_by_the_next_server(bench: Bench, disk: str) -> None:
    await bench.reopen(disk=disk)
    await bench.box("first", Limits(disk=256 * MIB))
    await bench.sh("first", "head -c 30M /dev/urandom > big; sha256sum big > sum")
    copied = await bench.runtime.snapshot("first", "snp_one")
    assert copied.size >= 30_000_000
    await bench.runtime.destroy("first")
    # What is there decides which kind of pool it is, also when no box is left.
    await bench.reopen(disk="auto")
    assert await bench.runtime.snapshots() == ["snp_one"]
    await bench.runtime.create(replace(bench.spec("second", Limits(disk=256 * MIB)), origin="snp_one"))
    assert (await bench.sh("second", "sha256sum -c sum")).stdout == "big: OK\n"
    await bench.runtime.copy_snapshot("snp_one", "snp_two")
    await bench.runtime.forget_snapshot("snp_one")
    assert await bench.runtime.snapshots() == ["snp_two"]
    await bench.runtime.forget_snapshot("snp_two")
    with pytest.raises(NoSuchSnapshot):
        await bench.runtime.create(replace(bench.spec("third"), origin="snp_two"))
    await bench.clear()
    await bench.runtime.close()
    assert await gone(bench.places) == []


async def pieces(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in stream]


async def again(*streams: list[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    async def one(parts: list[bytes]) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    for parts in streams:
        yield one(parts)


@pytest.mark.parametrize("disk", ["btrfs", "image"])
async def test_a_copy_that_was_sent_is_received_by_another_pool(bench: Bench, tmp_path: Path, disk: str) -> None:
    await bench.reopen(disk=disk)
    await bench.box("first", Limits(disk=256 * MIB))
    await bench.sh("first", "head -c 30M /dev/urandom > big; sha256sum big > sum; truncate -s 200M sparse")
    await bench.runtime.snapshot("first", "snp_one")
    sent = [await pieces(bench.runtime.send_snapshot("snp_one"))]
    assert bench.runtime.snapshot_form.value == disk
    assert 30_000_000 < sum(map(len, sent[0])) < 33_000_000
    await bench.sh("first", "echo more >> sum")
    await bench.runtime.snapshot("first", "snp_two")
    differs = bench.runtime.snapshot_form.has_differences
    last = await pieces(bench.runtime.send_snapshot("snp_two", "snp_one" if differs else None))
    assert not differs or sum(map(len, last)) < 20_000
    sent = [*sent, last] if differs else [last]
    for name in ("snp_one", "snp_two"):
        await bench.runtime.forget_snapshot(name)
    await bench.clear()
    await bench.reopen(data=tmp_path / "other")
    await bench.runtime.receive_snapshot("snp_three", again(*sent))
    await bench.runtime.create(replace(bench.spec("second", Limits(disk=256 * MIB)), origin="snp_three"))
    said = (await bench.sh("second", "head -n1 sum | sha256sum -c; tail -n1 sum; stat -c %b sparse")).stdout
    assert said.split() == ["big:", "OK", "more", "0"]
    await bench.runtime.forget_snapshot("snp_three")


async def test_a_box_runs_on_layers_that_were_fetched(bench: Bench, tmp_path: Path) -> None:
    remote = RemoteStore(open_store(str(tmp_path / "objects")), "k" * 43)
    here = Images(IMAGES)
    small = "debian-13-slim"  # a quarter of the default image
    image = here.resolve(small if small in here.names() else None)
    spec = replace(bench.spec("fetched"), layers=image.layers, env=image.env)
    for layer in spec.layers:
        await LayerShelf(remote, here).keep(layer)
    there = Images(tmp_path / "images", bench.places.data)
    await bench.reopen(layer_roots=(there.store.root,))
    layers = tuple([await LayerShelf(remote, there).fetch(layer.digest) for layer in spec.layers])
    assert not {layer.path for layer in layers} & {layer.path for layer in spec.layers}
    await bench.runtime.create(replace(spec, layers=layers))
    said = await bench.sh("fetched", "sudo -n id -u; python3 -c 'print(6 * 7)'; stat -c %a /tmp")
    assert said.stdout.split() == ["0", "42", "1777"]


async def test_what_a_killed_server_received_by_half_is_dropped(bench: Bench) -> None:
    await bench.box("box")
    await bench.runtime.snapshot("box", "snp_one")
    sent = await pieces(bench.runtime.send_snapshot("snp_one"))
    pool = bench.runtime._host.pool
    receiver = await asyncio.to_thread(pool.begin_receiving, "snp_two")
    (whole,) = [stream async for stream in again(sent)]
    await transfer.expand(whole, receiver)
    assert [path.name for path in (pool.snapshots.parent / ".receiving" / "snp_two").iterdir()] == ["snp_one"]
    await bench.reopen()
    assert list((pool.snapshots.parent / ".receiving").iterdir()) == []
    assert await bench.runtime.snapshots() == ["snp_one"]
    await bench.runtime.forget_snapshot("snp_one")


async def test_a_box_that_a_killed_server_left_standing_still_goes_on(bench: Bench) -> None:
    await bench.box("box")
    group = bench.places.group(read_layout(mounts.current()), "box")
    (bench.places.frozen / "box").touch()
    await asyncio.to_thread(group.freeze)
    await bench.reopen()
    assert (await bench.sh("box", "echo goes on")).stdout == "goes on\n"
    assert list(bench.places.frozen.iterdir()) == []


async def test_a_copy_that_was_cut_off_is_no_snapshot(bench: Bench) -> None:
    await bench.box("box")
    await bench.runtime.snapshot("box", "snp_whole")
    # As a server leaves it that is killed while it writes out: the first copy, which is dropped otherwise.
    pool = bench.runtime._host.pool
    await asyncio.to_thread(pool.snapshot, "box", ".new-snp_half")
    assert await bench.runtime.snapshots() == ["snp_whole"]
    await bench.reopen()
    assert [path.name for path in pool.snapshots.iterdir()] == ["snp_whole"]
    await bench.runtime.forget_snapshot("snp_whole")
