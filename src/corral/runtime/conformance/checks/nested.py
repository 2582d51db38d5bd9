"""Promises about nested boxes: what their root may do for containers inside them, and what still holds then."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from corral.runtime.conformance.checks.snapshots import snapshot_of
from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal
from corral.runtime.contract import LENT, MIB, STORES, BoxStatus

GROUP = Group()

#: A container by hand: programs from layers, a /proc and a /sys of its own, in namespaces of its own.
_CONTAINER = f"""
set -e
cd {STORES[0]} && mkdir -p upper work root
cat > inside <<'END'
set -e
mount -t tmpfs tmpfs root
mkdir root/usr root/proc root/sys root/old
for link in bin lib lib64 sbin; do ln -s usr/$link root/$link; done
mount -t overlay -o userxattr,lowerdir=/usr,upperdir=upper,workdir=work overlay root/usr
mount -t proc proc root/proc && mount -t sysfs -o ro sysfs root/sys
cd root && pivot_root . old && umount -l old && rmdir old
hostname inner && echo "$(hostname) $(ls /proc/sys/kernel/hostname) $(ls /sys/class/net) $$"
rm /usr/bin/env && echo written > /usr/mark
END
unshare --mount --pid --net --uts --ipc --cgroup --fork bash inside
test -e /usr/bin/env && test ! -e /usr/mark && cat upper/mark
"""


@GROUP.hazardous
async def a_nested_box_can_hold_containers(bench: Bench) -> None:
    """Root in a nested box makes namespaces, mounts and overlays; in another box it makes none of them."""
    nested, plain = replace(bench.spec(), nested=True), bench.spec()
    await bench.runtime.create(nested)
    ran = await bench.sh(nested.id, _CONTAINER, user="root")
    expect_equal(ran.stderr, b"", "what the container complained of")
    expect_equal(ran.text.splitlines(), ["inner /proc/sys/kernel/hostname lo 1", "written"], "what the container said")
    await bench.runtime.create(plain)
    refused = await bench.sh(plain.id, "unshare --mount true || unshare --user true", user="root")
    expect(refused.result.exit_code != 0, "a plain box may make namespaces")


@GROUP.hazardous
async def a_container_is_held_to_the_limits_of_its_box(bench: Bench) -> None:
    """What is in containers, and what they keep on the disk, counts as the box's."""
    limits = replace(bench.factory("dbx").limits, memory=192 * MIB, disk=64 * MIB, pids=60)
    spec = replace(bench.spec(limits=limits), nested=True)
    await bench.runtime.create(spec)
    inside = "unshare --user --map-root-user --mount --pid --cgroup --fork"
    ran = await bench.sh(spec.id, f"{inside} python3 -c 'x = bytearray(1 << 30)'", user="root")
    expect(ran.result.exit_code != 0, "1 GiB of memory in a box of 192 MiB")
    ran = await bench.sh(spec.id, f"dd if=/dev/zero of={STORES[0]}/filler bs=1M count=256", user="root")
    expect(ran.result.exit_code != 0, "256 MiB fit into a disk of 64 MiB")
    expect((await bench.runtime.usage(spec.id)).disk <= 80 * MIB, "the box is over its disk limit")
    ran = await bench.sh(
        spec.id, f"rm {STORES[0]}/filler; {inside} bash -c 'for i in {{1..99}}; do sleep 9 & done' 2>&1", user="root"
    )
    expect("fork" in ran.text, f"99 tasks in a box of 60: {ran.text}")
    expect_equal((await bench.runtime.inspect(spec.id)).status, BoxStatus.RUNNING, "the box")


@GROUP.hazardous
async def stores_are_in_snapshots(bench: Bench) -> None:
    """The stores of a nested box are a part of its disk: a box that begins as its copy has them."""
    spec = replace(bench.spec(), nested=True)
    await bench.runtime.create(spec)
    for store in STORES:
        await bench.sh(spec.id, f"mkdir -p {store}/a && echo $$ > {store}/a/b && chown 7:8 {store}/a/b", user="root")
    listing = f"find {' '.join(STORES)} -printf '%p %m %U %G %s\\n' | sort; cat {STORES[0]}/a/b"
    before = (await bench.sh(spec.id, listing, user="root")).text
    async with snapshot_of(bench, spec.id) as name:
        copy = replace(bench.spec(), nested=True, origin=name)
        await bench.runtime.create(copy)
    expect_equal((await bench.sh(copy.id, listing, user="root")).text, before, "the stores of the copy")
    expect("7 8" in before, "owners are kept")


#: What the root of a box tries to get hold of a layer that it was lent: {tree} is where it sees that.
_TRIES: Final = """
touch {tree}/etc/mine && echo written
chown 7 {tree}/etc/passwd && echo given
mount -o remount,bind,rw {tree} && touch {tree}/etc/mine && echo mounted writable
unshare --mount sh -c 'mount -o remount,bind,rw {tree} && touch {tree}/etc/mine && echo mounted writable in there'
umount {tree} && echo unmounted
stat -c '%u %g' {tree}/etc/passwd && grep -c ^root: {tree}/etc/passwd
"""


@GROUP.hazardous
async def lent_layers_can_be_read_and_not_changed(bench: Bench) -> None:
    """A box finds the layers that it was lent, and no other; not even the root of a nested one can write to them.

    A box that begins as its disk has none.
    """
    plain = bench.spec()
    layer = plain.layers[0]
    tree = f"{LENT}/{layer.digest.rpartition(':')[2]}"
    spec = replace(plain, nested=True, lent=(layer,))
    await bench.runtime.create(spec)
    expect(layer in await bench.runtime.layers(), "the layer counts as used")
    ran = await bench.sh(spec.id, _TRIES.format(tree=tree), user="root")
    expect_equal(ran.text.splitlines(), ["0 0", "1"], "what root could do with it")
    expect_equal((await bench.sh(spec.id, f"ls {LENT}")).text.split(), [tree.rpartition("/")[2]], "all that was lent")
    async with snapshot_of(bench, spec.id) as name:
        copy = replace(bench.spec(), nested=True, origin=name)
        await bench.runtime.create(copy)
    expect_equal((await bench.sh(copy.id, f"ls -A {tree}")).text, "", "what a copy sees of it")
